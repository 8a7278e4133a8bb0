"""What the processor can do for this very process: instruction sets, and whether sums of INT8 products are exact.

Asked by CPUID and HWCAP inside of the process. /proc/cpuinfo alone would be wrong: under qemu's user emulation and in
some virtual machines it tells of another processor than the one whose instructions run.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from contextlib import suppress
from functools import cache

_X86 = ("x86_64", "AMD64")
# push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid; mov [r8], eax; [r8+4], ebx; [r8+8], ecx; [r8+12], edx;
# pop rbx; ret: the System V calling convention
_CPUID = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
_LEAF_FEATURES, _AVX512_VNNI_ECX, _AVX_VNNI_EAX = 7, 1 << 11, 1 << 4  # Intel SDM volume 2A, CPUID, leaf 7


@cache
def features() -> tuple[str, ...]:
    """Names of what kernels for INT8 differ by, as far as this process may use it: "avx2", "avx512", "vnni"; "dotprod"
    on ARM; and each group of instructions that NumPy names."""
    found = [name.lower() for name in _numpy_found()]
    if is_x86():
        known = {"avx2" for name in found if name in ("avx2", "x86_v3")}
        known |= {"avx512" for name in found if name.startswith("avx512") or name == "x86_v4"}
        known |= {"vnni"} if has_vnni() else set()
    else:
        known = {"dotprod" for name in found if name == "asimddp"}
    return tuple(sorted(known | set(found)))


@cache
def has_vnni() -> bool:
    """Whether an x86-64 processor sums four products of 8 bits in 32 bits (AVX-512 VNNI or AVX-VNNI).

    False where nothing tells: exact kernels are then chosen, which are slower and right.
    """
    found = {name.lower() for name in _numpy_found()}
    if not is_x86() or not found:
        return False
    has_avx512 = any(name.startswith("avx512") or name == "x86_v4" for name in found)
    if has_avx512 and any(name in found for name in ("avx512vnni", "avx512_icl", "avx512_spr")):
        return True
    has_avx2 = not found.isdisjoint({"avx2", "x86_v3"})
    asked = _cpuid(_LEAF_FEATURES, 0), _cpuid(_LEAF_FEATURES, 1)
    if asked[0] is None or asked[1] is None:
        return False
    return bool((has_avx512 and asked[0][2] & _AVX512_VNNI_ECX) or (has_avx2 and asked[1][0] & _AVX_VNNI_EAX))


def saturates_int8() -> bool:
    """Whether kernels of this processor add two products of uint8 and int8 in 16 bits, where they saturate.

    That is so on every x86-64 without VNNI (the instruction vpmaddubsw), and on no ARM. Runtimes use such kernels
    without a word, and their answers are wrong; a backend has to avoid them.
    """
    return is_x86() and not has_vnni()


def is_x86() -> bool:
    return platform.machine() in _X86


def _numpy_found() -> tuple[str, ...]:
    """The instruction sets that NumPy found when it was imported, by CPUID and HWCAP."""
    import numpy as np  # here: who only reads configuration and profiles needs no arrays

    with suppress(KeyError, TypeError, ValueError):
        return tuple(np.show_config(mode="dicts")["SIMD Extensions"]["found"])  # type: ignore[call-overload,index,unused-ignore]
    return ()


def _cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int] | None:
    """EAX, EBX, ECX, EDX of a leaf; None where the system forbids memory that can be executed, or it does not exist."""
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            page.write(_CPUID)
            start = ctypes.c_char.from_buffer(page)
            words = (ctypes.c_uint32 * 4)()
            call = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(start))
            call(0, 0, ctypes.addressof(words))
            highest = words[0]
            if leaf <= highest:
                call(leaf, subleaf, ctypes.addressof(words))
            del start  # else the page cannot be closed
            return (words[0], words[1], words[2], words[3]) if leaf <= highest else (0, 0, 0, 0)
    except (OSError, ValueError):
        return None
