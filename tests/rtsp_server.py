"""A real RTSP server for tests (gst-rtsp-server, run by Debian's /usr/bin/python3): its pictures carry the time.

    /usr/bin/python3 rtsp_server.py PORT [--user NAME --password WORD]

/cam is H.264, /mjpg is JPEG, 640 x 360 at 30 pictures a second. Each picture is 16 vertical bars of 40 pixels, white
for 1: the milliseconds of CLOCK_MONOTONIC, modulo 65536, most significant bit first. Prints "ready" once it listens.
"""

import argparse
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

WIDTH_PX, HEIGHT_PX, FPS, BITS = 640, 360, 30, 16
RAW = f"video/x-raw,format=GRAY8,width={WIDTH_PX},height={HEIGHT_PX},framerate={FPS}/1"
SOURCE = (
    f"appsrc name=bars is-live=true do-timestamp=true format=time caps={RAW} ! videoconvert ! video/x-raw,format=I420"
)
MOUNTS = {
    "/cam": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 bitrate=2000 ! rtph264pay name=pay0 pt=96",
    "/mjpg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def picture() -> bytes:
    now_ms = time.monotonic_ns() // 1_000_000 % 65536
    bar_px = WIDTH_PX // BITS
    row = b"".join((b"\xeb" if now_ms >> bit & 1 else b"\x10") * bar_px for bit in reversed(range(BITS)))
    return row * HEIGHT_PX


def feed(_factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
    bars = media.get_element().get_by_name_recurse_up("bars")
    running = [True]

    def push() -> bool:
        if running[0]:
            bars.emit("push-buffer", Gst.Buffer.new_wrapped(picture()))
        return running[0]

    media.connect("unprepared", lambda _media: running.__setitem__(0, False))
    GLib.timeout_add(1000 // FPS, push)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--user")
    parser.add_argument("--password")
    args = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    for mount, encoder in MOUNTS.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {SOURCE} ! {encoder} )")
        factory.set_shared(True)
        factory.connect("media-configure", feed)
        if args.user:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(mount, factory)
    if args.user:
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        login = GstRtspServer.RTSPAuth()
        login.add_basic(GstRtspServer.RTSPAuth.make_basic(args.user, args.password), token)
        server.set_auth(login)
    if server.attach(None) == 0:
        raise SystemExit(f"port {args.port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
