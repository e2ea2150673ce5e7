# docker build --tag fstat-exporter .
# The base of both stages, named once: what is installed is installed by the Python that will run it.
FROM docker.io/library/python:3.13.14-slim-trixie AS base


FROM base AS environment

WORKDIR /source
COPY requirements/build.txt requirements/run.txt requirements/
# An environment of its own, without pip, compiled now because nothing can be written when it runs. Everything in it,
# and what builds it, is pinned with hashes.
RUN python3 -m venv --without-pip /opt/fstat-exporter \
    && python3 -m pip --python=/opt/fstat-exporter/bin/python install --no-cache-dir --compile \
        --require-hashes --requirement=requirements/run.txt \
    && python3 -m venv --without-pip /opt/build \
    && python3 -m pip --python=/opt/build/bin/python install --no-cache-dir \
        --require-hashes --requirement=requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY fstat_cache fstat_cache
COPY exporter exporter
RUN python3 -m pip --python=/opt/build/bin/python wheel --no-cache-dir --no-deps --no-build-isolation \
        --wheel-dir=/wheels . \
    && python3 -m pip --python=/opt/fstat-exporter/bin/python install --no-cache-dir --no-deps --compile /wheels/*.whl


FROM base

LABEL org.opencontainers.image.title="fstat-exporter" \
      org.opencontainers.image.description="Size, age and growth of many log files as Prometheus metrics" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=environment /opt/fstat-exporter /opt/fstat-exporter
COPY config/exporter.yml /etc/fstat-exporter/exporter.yml
ENV PATH=/opt/fstat-exporter/bin:$PATH

# A number, for Kubernetes' runAsNonRoot. It sees what everybody may see; for the rest add
# --user=0 --cap-drop=ALL --cap-add=DAC_READ_SEARCH.
USER 10943:10943
EXPOSE 10943
STOPSIGNAL SIGTERM
ENTRYPOINT ["fstat-exporter"]

# For the default address without TLS and passwords. The agent itself answers within 5 s whether it is healthy.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s \
    CMD ["python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 10943); c.request('GET', '/-/healthy'); exit(c.getresponse().status != 200)"]
