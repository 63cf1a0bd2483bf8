"""From the API's answers to the outages of a site: pure functions from data to frames."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from etl_assets.core.contracts import Fault, Record, Split
from etl_assets.core.contracts.cast import cast_column
from etl_assets.core.contracts.validation import split
from etl_assets.systems.outages.contracts import RawOutages, RawSiteInfo, SiteDevices, SiteOutages

CUTOFF = datetime(2022, 1, 1, tzinfo=UTC)
OUTAGES_SOURCE = "GET /outages"
# Columns of ours by the field of the API that they come from; the text of a time is judged with the time.
FIELDS = {"device_id": "id", "begin_text": "begin", "begin_at": "begin", "end_text": "end", "end_at": "end"}


def raw_outages_frame(answer: Sequence[Any], *, fetched_at: datetime, first_position: int = 0) -> Split[pd.DataFrame]:
    """The elements of `GET /outages` as rows of `RawOutages`, in their order.

    An element that lacks a field, or has a wrong one, is rejected with all its faults. One with an end before its begin or with a
    field that we do not know is kept, and flagged.

    Args:
        answer: the array as received.
        fetched_at: when it was received.
        first_position: place of the first element.
    """
    elements = [element if isinstance(element, Mapping) else {"element": element} for element in answer]
    unknown = [{name: e[name] for name in e if name not in ("id", "begin", "end")} for e in elements]
    rows = [
        (e.get("id"), *[e.get("begin"), e.get("end")] * 2, json.dumps(more, sort_keys=True) if more else None)
        for e, more in zip(elements, unknown, strict=True)
    ]
    columns = ["device_id", "begin_text", "end_text", "begin_at", "end_at", "additional_fields"]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    frame.insert(0, "position", range(first_position, first_position + len(elements)))
    frame["fetched_at"] = _instants(fetched_at, len(frame))
    judged = split(RawOutages, frame, raw=elements, source=OUTAGES_SOURCE)
    rejected = [replace(record, faults=_by_field(record.faults)) for record in judged.records]
    places = judged.valid["position"] - first_position
    return Split(judged.valid, [*rejected, *_flagged(judged.valid.set_index(places), elements, unknown)])


def _instants(at: datetime, count: int) -> pd.Series:
    return pd.Series([pd.Timestamp(at)] * count, dtype="datetime64[us, UTC]")


def corrected_outages(raw: Sequence[Mapping[str, Any]], snapshot: pd.DataFrame) -> Split[pd.DataFrame]:
    """Elements that were in quarantine, as rows that follow those of a snapshot.

    Args:
        raw: the elements, corrected.
        snapshot: its rows, `RawOutages`.
    """
    last = int(snapshot["position"].max()) if len(snapshot) else -1
    fetched_at = snapshot["fetched_at"].max() if len(snapshot) else datetime.now(UTC)
    return raw_outages_frame(raw, fetched_at=fetched_at, first_position=last + 1)


def _by_field(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Faults by the field of the API, one for each."""
    by_field: dict[str, Fault] = {}
    for fault in faults:
        field = FIELDS.get(fault.column, fault.column)
        by_field.setdefault(field, replace(fault, column=field))
    return tuple(by_field.values())


def _flagged(
    valid: pd.DataFrame, elements: Sequence[Mapping[str, Any]], unknown: Sequence[Mapping[str, Any]]
) -> list[Record]:
    """Remarks on rows that are kept, which are indexed by their element."""
    backwards = valid["end_at"] < valid["begin_at"]
    records = []
    for element in valid.index[backwards | valid["additional_fields"].notna()]:
        faults = [Fault(name, "additional field", value) for name, value in unknown[element].items()]
        if backwards[element]:
            faults.append(Fault("end", "before begin", elements[element]["end"]))
        records.append(Record(tuple(faults), elements[element], f"{OUTAGES_SOURCE}, row {element}", "flagged"))
    return records


def site_info_frame(answers: Mapping[str, Mapping[str, Any]], *, fetched_at: datetime) -> Split[pd.DataFrame]:
    """The answers of `GET /site-info/{site}` as rows of `RawSiteInfo`.

    One without a name is kept, and flagged: nothing that is derived needs it.

    Args:
        answers: the answer by the site that was asked for.
        fetched_at: when the last of them was received.
    """
    names = {site: answer.get("name") for site, answer in answers.items()}
    records = [
        Record((Fault("name", "required", name),), {"site_id": site, "name": name}, f"GET /site-info/{site}", "flagged")
        for site, name in names.items()
        if not isinstance(name, str)
    ]
    rows = [
        (site, names[site] if isinstance(names[site], str) else None, json.dumps(answer))
        for site, answer in answers.items()
    ]
    frame = pd.DataFrame(rows, columns=["site_id", "name", "body"], dtype=object)
    frame["fetched_at"] = _instants(fetched_at, len(frame))
    return Split(frame[list(RawSiteInfo.columns)], records)


def devices_of_sites(raw_site_info: pd.DataFrame) -> Split[pd.DataFrame]:
    """The devices in each site's answer as rows of `SiteDevices`; of a device that is named twice the last counts.

    A blank name is none. Devices within a device are not read, which is said of that.

    Args:
        raw_site_info: rows of `RawSiteInfo`, at least `site_id` and `body`.
    """
    devices = [
        (site, device if isinstance(device, dict) else {"element": device})
        for site, body in zip(raw_site_info["site_id"], raw_site_info["body"], strict=True)
        for device in json.loads(body)["devices"]
    ]
    rows = [(site, _or_none(device.get("id")), _or_none(device.get("name"))) for site, device in devices]
    raw = [{"site_id": site, **device} for site, device in devices]
    frame = pd.DataFrame(rows, columns=list(SiteDevices.columns), dtype=object)
    found = split(SiteDevices, frame, raw=raw, source="GET /site-info")
    nested = [
        Record(
            (Fault("devices", "devices within a device are not read", one["devices"]),),
            one,
            f"GET /site-info, row {row}",
            "flagged",
        )
        for row, one in enumerate(raw)
        if one.get("devices")
    ]
    return Split(found.valid, [*found.records, *nested])


def _or_none(text: Any) -> Any:
    return None if isinstance(text, str) and not text.strip() else text


def outages_of_sites(
    raw_outages: pd.DataFrame, site_devices: pd.DataFrame, *, began_from: datetime = CUTOFF
) -> pd.DataFrame:
    """Outages of the sites' own devices that began at or after the cut-off, with device names.

    An outage that began exactly at the cut-off is kept; its end plays no part. Rows of one device with the same instants are one
    outage, however they are spelled: they share place and text of the first, so that the table keeps one of them.

    Args:
        raw_outages: rows of `RawOutages`.
        site_devices: rows of `SiteDevices`, of one site or several.
        began_from: the cut-off.

    Returns:
        Rows of `SiteOutages` in the order of the API's answer.
    """
    recent = raw_outages[raw_outages["begin_at"] >= began_from]
    named = recent.merge(site_devices, on="device_id", how="inner").sort_values(["site_id", "position"])
    identity = ["site_id", "device_id", "begin_at", "end_at"]
    first = named.groupby(identity)[["begin_text", "end_text", "position"]].transform("first")
    outages = pd.DataFrame({**{name: named[name] for name in identity}, "name": named["device_name"], **first})
    instants = [outages[name].dt.as_unit("us").astype("int64") for name in ("begin_at", "end_at")]
    parts = zip(outages["site_id"], outages["device_id"], *instants, outages["name"], strict=True)
    outages["delivery_key"] = [_delivery_key(*part) for part in parts]
    return outages[list(SiteOutages.columns)].reset_index(drop=True)


def delivery_keys(site: str, outages: Sequence[Mapping[str, str]]) -> list[str]:
    """What is delivered once, of each outage of a payload; its times are read as those of `GET /outages` are."""
    texts = pd.Series([outage[field] for field in ("begin", "end") for outage in outages], dtype=object)
    instants = cast_column(texts, RawOutages.columns["begin_at"]).values.cast("int64").to_pylist()
    begins, ends = instants[: len(outages)], instants[len(outages) :]
    return [
        _delivery_key(site, outage["id"], begin, end, outage["name"])
        for outage, begin, end in zip(outages, begins, ends, strict=True)
    ]


def _delivery_key(site: str, device: str, begin_us: int, end_us: int, name: str) -> str:
    """The hash of an outage, its instants in microseconds since 1970."""
    return hashlib.sha256(json.dumps([site, device, begin_us, end_us, name]).encode()).hexdigest()


def payload(pending: Iterable[Mapping[str, Any]]) -> str:
    """The body of a delivery: the outages in input order, times exactly as received.

    Args:
        pending: rows of `SiteOutages` of one site.
    """
    fields = {"id": "device_id", "name": "name", "begin": "begin_text", "end": "end_text"}
    rows = sorted(pending, key=lambda row: int(row["position"]))
    return json.dumps([{field: row[column] for field, column in fields.items()} for row in rows])


def batch_key(site: str, body: str) -> str:
    """Identity of a batch: the hash of its site and its payload, so that a key never stands for two payloads."""
    return hashlib.sha256(json.dumps([site, body]).encode()).hexdigest()
