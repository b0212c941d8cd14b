"""An Elasticsearch server. In: its URL. Out: a client of it."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit, urlunsplit

from elasticsearch import AsyncElasticsearch

# Seconds; longer than Elasticsearch itself waits for a shard.
_WITHIN = 10.0


def search_at(url: str) -> AsyncElasticsearch:
    """`url` is `http://user:password@host:9200` or `https://…`; `?ca_certs=PATH` names who signed the server's key.

    It never asks again by itself: whoever fills tries later, and whoever asks is told."""
    parts = urlsplit(url)
    authorities = parse_qs(parts.query).get("ca_certs", [None])[-1]
    bare = urlunsplit(parts._replace(query=""))
    if authorities is None:
        return AsyncElasticsearch(bare, request_timeout=_WITHIN, max_retries=0)
    return AsyncElasticsearch(bare, request_timeout=_WITHIN, max_retries=0, ca_certs=authorities)
