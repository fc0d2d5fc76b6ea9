# PyTorch 2.10 on CUDA 13.1 with Python 3.12, as NVIDIA built it; needs driver 580 or later.
FROM nvcr.io/nvidia/pytorch:25.12-py3

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /workspace/nnunet

# The base image constrains pip to the packages it was made with. Its PyTorch has to stay; the rest
# gives way to the versions that this project is tested with.
ENV PIP_CONSTRAINT=/etc/pip/keep-torch.txt \
    MPLBACKEND=Agg
COPY requirements.txt requirements-common.txt ./
RUN pip list --format=freeze | grep '^torch==' > "$PIP_CONSTRAINT" \
    && pip install --no-cache-dir -r requirements-common.txt "$(grep '^nvidia-dali' requirements.txt)" \
    && pip install --no-cache-dir --no-deps \
        git+https://github.com/NVIDIA/dllogger@0478734ff7be75adde8d160e04872664d1c62e5f

# A package that does not fit the image's PyTorch ends the build here, not a training run later.
RUN pip list --format=freeze | grep '^torch==' | diff "$PIP_CONSTRAINT" - \
    && python -c "import torch, numba, nvidia.dali.plugin.pytorch, pytorch_lightning, monai, dllogger; \
assert torch.version.cuda and torch.ones(2).numpy().sum() == 2"

COPY . .
CMD ["/bin/bash"]
