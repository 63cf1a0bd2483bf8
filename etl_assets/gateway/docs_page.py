"""The page for people at /docs: Swagger UI, whose files come from an installed package and so need no network."""

import importlib.resources
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

PAGE = "/docs"
Asset = Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]
SCRIPT, STYLE, ICON = (f"{PAGE}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"))
ASSETS = Path(str(importlib.resources.files("fastapi_offline"))) / "static"

router = APIRouter(include_in_schema=False)


@router.get(PAGE)
async def docs(request: Request) -> HTMLResponse:
    """The calls, to be read and tried."""
    return get_swagger_ui_html(
        openapi_url=request.app.openapi_url,
        title=request.app.title,
        swagger_js_url=SCRIPT,
        swagger_css_url=STYLE,
        swagger_favicon_url=ICON,
    )


@router.get(PAGE + "/{name}")
async def docs_asset(name: Asset) -> FileResponse:
    """A file of the page."""
    return FileResponse(ASSETS / name)
