# dgflow with what a run needs, for Docker, KubeRay and Apptainer (docs/cluster.md).
#
#     docker build --tag dgflow .                              # GPUs and CPUs
#     docker build --tag dgflow:cpu --build-arg VARIANT=cpu .  # CPUs alone: 5 GB smaller
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm

# For torch.compile: g++ for inductor, gcc, which comes with it, for Triton, and Python's headers, which this base has. wget is for
# KubeRay's probes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ wget \
    && rm -rf /var/lib/apt/lists/*

# Ray's own images have this user, and Kubernetes' runAsNonRoot wants a number.
RUN useradd --uid 1000 --gid 100 --create-home --shell /bin/bash ray

# PyPI's torch brings CUDA's libraries: the host needs NVIDIA's driver and container toolkit alone.
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /usr/local/src/dependencies
COPY pyproject.toml constraints.txt ./
ARG VARIANT=cuda
RUN case "$VARIANT" in \
        cuda) ;; \
        cpu) pip install --no-deps --constraint constraints.txt \
            --index-url https://download.pytorch.org/whl/cpu torch torchvision ;; \
        *) echo "expected VARIANT=cuda or VARIANT=cpu, found $VARIANT" >&2; exit 1 ;; \
    esac

# The dependencies are those of an empty dgflow, in a layer that changes of the code leave alone.
ARG EXTRAS=run,dit
RUN mkdir dgflow && touch dgflow/__init__.py README.md LICENSE \
    && echo '__version__ = "0"' > dgflow/_version.py \
    && pip install --constraint constraints.txt ".[$EXTRAS]"

WORKDIR /usr/local/src/dgflow
COPY . .
RUN pip install --no-deps --force-reinstall .

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:100
WORKDIR /home/ray
COPY workflows workflows
RUN dgflow --help > /dev/null
ENTRYPOINT ["dgflow"]
