# syntax=docker/dockerfile:1
# Two stages: what builds stays behind; what runs is Python, the locked packages and the relay, as a user of its own.

FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/relay
COPY requirements-server.lock ./
RUN pip --python /opt/relay/bin/python install --no-deps --require-hashes -r requirements-server.lock
COPY pyproject.toml README.md LICENSE ./
COPY db ./db
COPY relay ./relay
COPY docs/openapi.yaml ./docs/
RUN pip --python /opt/relay/bin/python install --no-deps .

FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin relay
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STARFISH_HOST=0.0.0.0 \
    STARFISH_PORT=8000 \
    STARFISH_DATA_DIR=/data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Docker sends SIGTERM: the relay says goodbye to its sites, finishes what is under way, and ends with 0.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as u; s = 'https' if os.environ.get('STARFISH_TLS_CERT') else 'http'; u.urlopen(f\"{s}://127.0.0.1:{os.environ['STARFISH_PORT']}/health/ready\", timeout=4, context=ssl._create_unverified_context())"]
CMD ["starfish-relay", "serve"]
