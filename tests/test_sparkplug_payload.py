"""Our Sparkplug messages against the definition of Eclipse Tahu, in its own code (npm's sparkplug-payload)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from lineside.deliver.sparkplug.payload import (
    BOOLEAN,
    DATETIME,
    DOUBLE,
    INT32,
    INT64,
    METRIC_FIELDS,
    METRIC_VALUES,
    PAYLOAD_FIELDS,
    STRING,
    Heard,
    Metric,
    birth,
    parse,
    update,
)
from sparkplug import JS, node


def tahu(**question: Any) -> Any:
    command = [node(), str(JS / "tahu_payload.mjs")]
    done = subprocess.run(command, input=json.dumps(question) + "\n", capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


SAMPLES = {"uint64": 2**40 + 3, "uint32": 2**31 + 5, "bool": True, "string": "größer", "float": 0.5, "double": 0.1}


@pytest.mark.parametrize("value", [*METRIC_VALUES])
def test_every_field_has_the_number_and_type_that_tahu_gives_it(value: str) -> None:
    from lineside.deliver.sparkplug.payload import _payload_class

    def camel(name: str) -> str:
        first, *rest = name.split("_")
        return first + "".join(word.capitalize() for word in rest)

    kind = METRIC_VALUES[value][1]
    content: Any = "AAEC" if kind == "bytes" else SAMPLES[kind]
    fields = {name: SAMPLES[kind] for name, (_, kind) in METRIC_FIELDS.items()}
    metric = {camel(name): one for name, one in {**fields, value: content}.items()}
    theirs = bytes.fromhex(tahu(encode={"timestamp": 2**41, "seq": 255, "metrics": [metric]}))
    read = _payload_class()()
    read.ParseFromString(theirs)
    assert {field.name for field, _ in read.ListFields()} == set(PAYLOAD_FIELDS)
    assert (read.timestamp, read.seq) == (2**41, 255)
    for name, one in fields.items():
        assert getattr(read.metrics[0], name) == one
    assert read.metrics[0].WhichOneof("value") == value
    assert getattr(read.metrics[0], value) == (b"\x00\x01\x02" if kind == "bytes" else content)
    assert read.SerializeToString(deterministic=True) == theirs


def test_what_we_encode_is_what_tahu_reads() -> None:
    metrics = [
        Metric("a", INT32, 7, 11, 1),
        Metric("b", INT64, 2**53 - 1, 12, 2),
        Metric("c", DOUBLE, 0.1, 13, 3),
        Metric("d", BOOLEAN, False, 14, 4),
        Metric("e", STRING, "ü", 15, 5),
        Metric("f", DATETIME, 1_800_000_000_000, 16, 6),
        Metric("g", STRING, None, 17),
    ]
    read = tahu(decode=birth(metrics, now_ms=99, seq=0).hex())
    assert (read["timestamp"], read["seq"]) == (99, 0)
    values = [7, 2**53 - 1, 0.1, False, "ü", 1_800_000_000_000]
    fields = ["intValue", "longValue", "doubleValue", "booleanValue", "stringValue", "longValue"]
    for metric, given, field, value in zip(read["metrics"], metrics, fields, values, strict=False):
        assert metric == {
            "name": given.name,
            "alias": given.alias,
            "timestamp": given.at_ms,
            "datatype": given.datatype,
            field: value,
        }
    assert read["metrics"][6] == {"name": "g", "timestamp": 17, "datatype": STRING, "isNull": True}
    assert "seq" not in tahu(decode=birth([], now_ms=1, seq=None).hex())
    read = tahu(decode=update(metrics[:1], now_ms=1, seq=9, historical=True, typed=False).hex())
    assert read["metrics"] == [{"alias": 1, "timestamp": 11, "isHistorical": True, "intValue": 7}]
    read = tahu(decode=update(metrics[:1], now_ms=1, seq=9, historical=False, typed=True).hex())
    assert read["metrics"] == [{"alias": 1, "timestamp": 11, "datatype": INT32, "intValue": 7}]


def test_negative_numbers_travel_as_twos_complement() -> None:
    read = tahu(decode=birth([Metric("a", INT32, -1, 1), Metric("b", INT64, -2, 1)], now_ms=1, seq=0).hex())
    assert read["metrics"][0]["intValue"] == 2**32 - 1
    assert float(read["metrics"][1]["longValue"]) == float(2**64 - 2)


def test_parse_gives_names_aliases_and_values_or_says_that_it_is_none() -> None:
    data = birth([Metric("a", BOOLEAN, True, 1), Metric("b", STRING, None, 1, 3)], now_ms=1, seq=None)
    assert parse(data) == [Heard("a", None, True), Heard("b", 3, None)]
    assert parse(b"") == []
    for wrong in (b"\xff\xff", data[:-2], b"\x12\xff\xff\xff\xff\x0f"):
        with pytest.raises(ValueError, match="no Sparkplug payload"):
            parse(wrong)


def test_protobuf_is_imported_only_when_the_sink_is_made_and_its_absence_is_said() -> None:
    program = """
import sys
import lineside.daemon, lineside.deliver.sparkplug.sink
assert not [name for name in sys.modules if name.startswith("google.protobuf")], "imported too early"
sys.modules["google.protobuf.descriptor_pb2"] = None
from lineside.deliver.sparkplug.payload import parse
from lineside.errors import ConfigError
try:
    parse(b"")
except ConfigError as error:
    assert "lineside[sparkplug]" in str(error), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
