# The environment server, without torch. docker build -t rounds . && docker run -p 7860:7860 rounds
# Its flags are variables here: docker run -e ROUNDS_TOKEN=... -e ROUNDS_RATE=50 (.env.example lists them)
FROM python:3.11-slim AS build
WORKDIR /app
COPY requirements/env.txt requirements/env.txt
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -r requirements/env.txt

FROM python:3.11-slim
RUN useradd --uid 1000 --no-create-home rounds
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /app/.venv .venv
COPY openenv.yaml pyproject.toml ./
COPY configs configs
COPY data data
COPY env_server env_server
COPY server server
USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/health', timeout=4)"]
CMD ["python", "-m", "env_server.app", "--host", "0.0.0.0", "--port", "7860"]
