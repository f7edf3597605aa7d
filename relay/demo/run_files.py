"""Files of runs, for the coordinator: what polling sites upload, and the model as they download it.

Plain HTTP with the credentials of a user, as polling controllers do it; the rest goes over the WebSocket.
"""

from __future__ import annotations

import io
import zipfile

import httpx

TASK = 1
TIMEOUT_S = 20.0


class RunFiles:
    """The files of one batch, through the relay's polling API."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = f"{url}/starfish/api/v1/runs-action/"
        self._auth = httpx.BasicAuth(user, password)

    async def put(self, run: int, round_: int, artifacts: bytes) -> None:
        """Give the coordinator's run a model. It reaches the runs of all other sites, too."""
        async with self._client() as http:
            form = {"run": str(run), "task_seq": str(TASK), "round_seq": str(round_)}
            response = await http.post("upload/", data=form, files={"artifacts": ("artifacts", artifacts)})
            response.raise_for_status()

    async def get(self, run: int, type_: str, round_: int) -> bytes:
        """The file of a type that a run has of a round."""
        async with self._client() as http:
            of: dict[str, str | int] = {"run": run, "type": type_, "task_seq": TASK, "round_seq": round_}
            response = await http.get("download/", params=of)
            response.raise_for_status()
        return first_of(response.content)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, auth=self._auth, timeout=TIMEOUT_S, trust_env=False)


def first_of(archive: bytes) -> bytes:
    """The first file in a zip."""
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return files.read(files.namelist()[0])
