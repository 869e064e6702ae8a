"""The page of the OpenAPI document, /docs, in a real browser, from a running gateway."""

import pytest

from tests import services
from tests.browser.chromium import Chromium
from tests.gateway import GatewayProcess


@pytest.mark.skipif(not services.chromium(), reason="no Chromium here: apt install chromium")
def test_swagger_ui_shows_operations_and_its_console_has_nothing_to_complain_of(gateway: GatewayProcess):
    with Chromium(services.chromium()) as browser:
        page = browser.page()
        page.open(f"{gateway.url}/docs")

        # Swagger UI draws what the window shows, and the rest when it is scrolled to.
        page.wait(
            "document.querySelector('.opblock')?.innerText.includes('/v1/chat/completions')", "operations"
        )
        page.evaluate("document.querySelector('.opblock button').click()")
        page.wait("document.querySelector('.opblock').innerText.includes('acme-042')", "a request's example")

    assert page.errors == []
