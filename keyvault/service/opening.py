"""The application, once its home could be opened and everything in it verified; before that, nothing is served."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Mapping

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette

from keyvault.errors import KeyVaultError, ServiceError, Unavailable
from keyvault.service.health import Word, unknown

AGAIN_SECONDS = 1.0
"""Between two attempts to open a home whose database or engine does not answer."""

COLLECT = (5_000, 50, 100)
"""Thresholds of the collector. By its own ones it walks through all kept keys, for tens of milliseconds, as soon as there are a quarter more of
them than what is frozen lets it see; calls leave no cycles behind, but for those that fail."""

log = structlog.get_logger("keyvault.service")


class Opening:
    """Opens the application in the background, and holds it. What waiting does not mend ends the attempts: see `failed`."""

    def __init__(self, make: Callable[[], Starlette]) -> None:
        """`make` opens the home and returns the application over it; it raises as `keyvault.home.open_home`."""
        self._make = make
        self._stop = asyncio.Event()
        self.app: Starlette | None = None
        self.failed: KeyVaultError | None = None
        self.words: Mapping[str, Word] = unknown()
        self.settled = asyncio.Event()
        """Set when the application is there, or cannot be."""

    async def run(self) -> None:
        """Open, be there until `stop`, and close."""
        app = await self._opened()
        if app is None:
            self.settled.set()
            return
        async with app.router.lifespan_context(app):
            self.app = app
            gc.collect()
            gc.freeze()  # what is loaded now stays: the collector need not walk through it again and again
            gc.set_threshold(*COLLECT)
            log.info("the home is open")
            self.settled.set()
            await self._stop.wait()
            self.app = None

    def stop(self) -> None:
        """Close what is open, and give up what is not."""
        self._stop.set()

    async def _opened(self) -> Starlette | None:
        said = ""
        while not self._stop.is_set():
            try:
                return await asyncio.to_thread(self._make)
            except Unavailable as error:
                self.words = _at_fault(error)
                if str(error) != said:
                    said = str(error)
                    log.warning("the home cannot be opened yet", reason=said)
            except KeyVaultError as error:
                self.failed = error
                log.exception("the home cannot be opened")
                return None
            except Exception as error:  # a fault of the program: told, and no key is served
                self.failed = ServiceError(f"the home cannot be opened ({type(error).__name__}): see the log")
                log.exception("the home cannot be opened")
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), AGAIN_SECONDS)
        return None


def _at_fault(error: Unavailable) -> Mapping[str, Word]:
    """Tell the database from the engine: the store's layer wraps what SQLAlchemy raises."""
    if isinstance(error.__cause__, SQLAlchemyError):
        return unknown(database=Word.UNAVAILABLE)
    return unknown(engine=Word.UNAVAILABLE)
