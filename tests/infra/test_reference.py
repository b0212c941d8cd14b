"""The page of an API shows all of it, fetches nothing, runs nothing, and its own style alone is let in."""

from __future__ import annotations

import base64
import hashlib
import inspect
import re
from collections.abc import Callable
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI

import read_api.app
import write_api.app
from infra.http.reference import html


def described(build: Callable[..., FastAPI]) -> FastAPI:
    """What an API says of itself needs nothing of what it is given."""
    given = inspect.signature(build).parameters.values()
    needed = {one.name: None for one in given if one.default is inspect.Parameter.empty}
    return build(**needed)


APIS = [("write", write_api.app.build), ("read", read_api.app.build)]


class Found(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.inline: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "href":
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name in ("src", "srcset", "action", "data", "poster"):
                self.fetched.append(value or "")
            elif name == "style" or name.startswith("on"):
                self.inline.append(name)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize(("name", "build"), APIS)
async def test_all_of_an_api_is_on_its_page(name: str, build: Callable[..., FastAPI]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(described(build)), base_url="http://book") as client:
        answer = await client.get(f"/{name}/docs")
        document = (await client.get(f"/{name}/openapi.json")).json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    found = Found(answer.text)
    assert len(found.ids) == len(set(found.ids))
    operations = {one["operationId"] for path in document["paths"].values() for one in path.values()}
    assert operations | set(document["components"]["schemas"]) <= set(found.ids)
    assert {link.removeprefix("#") for link in found.links if link.startswith("#")} <= set(found.ids)
    assert [link for link in found.links if not link.startswith("#")] == ["openapi.json"]


@pytest.mark.parametrize(("name", "build"), APIS)
async def test_it_runs_nothing_and_fetches_nothing(name: str, build: Callable[..., FastAPI]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(described(build)), base_url="http://book") as client:
        answer = await client.get(f"/{name}/docs")
    found = Found(answer.text)
    assert not {"script", "link", "iframe", "img", "object", "form", "base"} & set(found.tags)
    assert found.fetched == []
    assert found.inline == []
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    (policy,) = answer.headers.get_list("content-security-policy")
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


def test_words_of_a_description_are_words_and_no_markup() -> None:
    evil = "<script>alert(1)</script>"
    schema = {"type": evil, "description": evil, "pattern": evil, "enum": [evil], "properties": {evil: {"const": evil}}}
    operation = {
        "operationId": "ask",
        "tags": [evil],
        "summary": evil,
        "description": f"a **bold** `code` {evil}\n\n* one `{evil}`\n* two\n  goes on",
        "parameters": [{"name": evil, "in": "query", "schema": schema}],
        "requestBody": {"content": {evil: {"schema": {"anyOf": [{"$ref": f"#/components/schemas/{evil}"}, schema]}}}},
        "responses": {"200": {"description": evil, "content": {evil: {"schema": {"type": "array", "items": schema}}}}},
    }
    page = html(
        {
            "info": {"title": evil, "description": evil},
            "paths": {f"/{evil}": {"get": operation}},
            "components": {"schemas": {evil: schema}},
        }
    )
    assert "script" not in Found(page).tags
    assert "<p>a <strong>bold</strong> <code>code</code>" in page
    assert page.count("<li>two") == 1
