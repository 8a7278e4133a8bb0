"""Sparkplug B payloads as bytes. The messages are the part of the Eclipse definition that lineside speaks, made from
field numbers when the sink is on; tests/test_sparkplug_payload.py holds them against the definition of Eclipse Tahu.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from lineside.registry import vendor

# datatype codes: "Data Types" of the specification, 6.4.16
INT32, INT64, DOUBLE, BOOLEAN, STRING, DATETIME = 3, 4, 10, 11, 12, 13
Datatype: TypeAlias = int
Value: TypeAlias = int | float | bool | str | None
VALUE_FIELD = {
    INT32: "int_value",
    INT64: "long_value",
    DOUBLE: "double_value",
    BOOLEAN: "boolean_value",
    STRING: "string_value",
    DATETIME: "long_value",
}
BITS = {INT32: 32, INT64: 64, DATETIME: 64}
# field -> (number, protobuf type); "oneof" ones are the value of a metric
PAYLOAD_FIELDS = {"timestamp": (1, "uint64"), "metrics": (2, "Metric"), "seq": (3, "uint64")}
METRIC_FIELDS = {
    "name": (1, "string"),
    "alias": (2, "uint64"),
    "timestamp": (3, "uint64"),
    "datatype": (4, "uint32"),
    "is_historical": (5, "bool"),
    "is_transient": (6, "bool"),
    "is_null": (7, "bool"),
}
METRIC_VALUES = {
    "int_value": (10, "uint32"),
    "long_value": (11, "uint64"),
    "float_value": (12, "float"),
    "double_value": (13, "double"),
    "boolean_value": (14, "bool"),
    "string_value": (15, "string"),
    "bytes_value": (16, "bytes"),
}


class Metric(NamedTuple):
    """One value. In a birth `name` and `datatype` are sent with the alias, else the alias alone where there is one."""

    name: str
    datatype: Datatype
    value: Value
    at_ms: int  # since 1970, UTC
    alias: int | None = None


class Heard(NamedTuple):
    """A metric of somebody's message: a command has a name or the alias that our birth gave."""

    name: str
    alias: int | None
    value: object


def birth(metrics: Iterable[Metric], *, now_ms: int, seq: int | None) -> bytes:
    """NBIRTH and DBIRTH: every metric with name, datatype and alias. NDEATH, too, which has no `seq`."""
    payload = _payload_class()(timestamp=now_ms)
    if seq is not None:
        payload.seq = seq
    for metric in metrics:
        added = payload.metrics.add(name=metric.name, datatype=metric.datatype, timestamp=metric.at_ms)
        if metric.alias is not None:
            added.alias = metric.alias
        _put(added, metric)
    return _bytes(payload)


def update(metrics: Iterable[Metric], *, now_ms: int, seq: int, historical: bool, typed: bool) -> bytes:
    """NDATA and DDATA: aliases instead of names. `historical`: not the present value, only for the record; `typed`:
    with the datatypes that the births gave."""
    payload = _payload_class()(timestamp=now_ms, seq=seq)
    for metric in metrics:
        added = payload.metrics.add(timestamp=metric.at_ms, alias=metric.alias)
        if historical:
            added.is_historical = True
        if typed:
            added.datatype = metric.datatype
        _put(added, metric)
    return _bytes(payload)


def parse(data: bytes) -> list[Heard]:
    """The metrics of a message. Raises ValueError where it is no Sparkplug payload."""
    payload = _payload_class()()
    try:
        payload.ParseFromString(data)
    except vendor("google.protobuf.message").DecodeError as error:
        raise ValueError(f"no Sparkplug payload ({error})") from error
    return [_heard(metric) for metric in payload.metrics]


def _put(added: Any, metric: Metric) -> None:
    value, bits = metric.value, BITS.get(metric.datatype)
    if value is None:
        added.is_null = True
    elif bits is not None:  # signed values travel as two's complement
        setattr(added, VALUE_FIELD[metric.datatype], int(value) % (1 << bits))
    else:
        setattr(added, VALUE_FIELD[metric.datatype], value)


def _bytes(payload: Any) -> bytes:
    encoded: bytes = payload.SerializeToString()
    return encoded


def _heard(metric: Any) -> Heard:
    kind = metric.WhichOneof("value")
    alias = metric.alias if metric.HasField("alias") else None
    return Heard(metric.name, alias, getattr(metric, kind) if kind and not metric.is_null else None)


@cache
def _payload_class() -> Any:
    """protobuf's class for Payload. Raises ConfigError where the package is absent."""
    descriptors, pools = vendor("google.protobuf.descriptor_pb2"), vendor("google.protobuf.descriptor_pool")
    field = descriptors.FieldDescriptorProto
    file = descriptors.FileDescriptorProto(name="sparkplug_b.proto", package="org.eclipse.tahu.protobuf")
    message = file.message_type.add(name="Payload")
    metric = message.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")

    def add(to: Any, fields: dict[str, tuple[int, str]], **more: int) -> None:
        for name, (number, kind) in fields.items():
            if kind == "Metric":
                made = {"label": field.LABEL_REPEATED, "type": field.TYPE_MESSAGE}
                to.field.add(name=name, number=number, type_name=f".{file.package}.Payload.Metric", **made)
            else:
                made = {"label": field.LABEL_OPTIONAL, "type": getattr(field, f"TYPE_{kind.upper()}")}
                to.field.add(name=name, number=number, **made, **more)

    add(message, PAYLOAD_FIELDS)
    add(metric, METRIC_FIELDS)
    add(metric, METRIC_VALUES, oneof_index=0)
    pool = pools.DescriptorPool()  # of our own: another Sparkplug package in the process may fill the default one
    pool.Add(file)
    factory = vendor("google.protobuf.message_factory")
    return factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.Payload"))
