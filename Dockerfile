# Image of a cliploom worker for Beam: Flink with the environment DOCKER, or Dataflow with --sdk_container_image.
#   docker build --tag REGISTRY/cliploom-worker:0.2.0 .
# The Beam version must be that of requirements.lock, and the Python version that of the machine that submits.
FROM apache/beam_python3.11_sdk:2.77.0

WORKDIR /opt/cliploom
COPY requirements.lock ./
# The lock names everything that is needed, so nothing is resolved; it holds neither torch nor TensorFlow.
RUN pip install --no-cache-dir --no-deps --requirement requirements.lock
COPY setup.py pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY cliploom/*.py cliploom/py.typed cliploom/
COPY schemas schemas
COPY transforms transforms
COPY pipelines pipelines
COPY serving serving
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
