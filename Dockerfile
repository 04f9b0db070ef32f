# syntax=docker/dockerfile:1
# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
# The segmenter on ROS 2 Jazzy, for a CPU or an NVIDIA GPU:
#   docker build --tag ptdiffseg_ros [--build-arg TORCH_INDEX=ADDRESS] .
#   docker build --tag ptdiffseg_ros:cuda --build-arg DEVICE=cuda .
#   docker run --rm --network host --ipc host ptdiffseg_ros
#   docker run --rm --network host --ipc host --gpus all ptdiffseg_ros:cuda \
#     ros2 launch ptdiffseg_ros segmenter.launch.py image_topic:=/camera/front/image_raw
# DDS reaches the host's nodes by the host's network and shared memory.
ARG DEVICE=cpu

FROM ros:jazzy-ros-base AS system
RUN install --directory --owner ubuntu /ws /ws/src/ptdiffseg_ros
WORKDIR /ws
# The manifest alone: a change of the code does not install its dependencies again.
COPY package.xml src/ptdiffseg_ros/
RUN apt-get update \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src --default-yes --dependency-types exec \
        --skip-keys 'python3-pytorch-pip python3-rosbags-pip python3-transformers-pip' \
    && apt-get install --yes --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*
USER ubuntu
# pip refuses to install next to Ubuntu's packages (PEP 668) unless it is allowed to.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1
COPY --chown=ubuntu config/constraints.txt requirements-ros.txt ./
# The model's releases only: ROS 2 comes with its own NumPy and Pillow.
RUN sed -n '/^# the model/,/^$/p' constraints.txt > model.txt

FROM system AS torch-cpu
# The address of PyTorch's CPU builds, which its installation page names. Without it pip takes the
# build for CUDA, which is larger and runs on a CPU too.
ARG TORCH_INDEX=
RUN pip install --user -c model.txt -c requirements-ros.txt torch \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}

FROM system AS torch-cuda
RUN pip install --user -c model.txt -c requirements-ros.txt torch
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM torch-${DEVICE} AS dependencies
RUN pip install --user -c model.txt -r requirements-ros.txt

# For .devcontainer/devcontainer.json, which mounts the sources.
FROM dependencies AS development
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libxml2-utils python3-venv \
    && rm -rf /var/lib/apt/lists/*
USER ubuntu
WORKDIR /ws/src/ptdiffseg_ros

FROM dependencies AS segmenter
COPY --chown=ubuntu . src/ptdiffseg_ros
RUN . /opt/ros/jazzy/setup.sh && colcon build --packages-select ptdiffseg_ros
ENTRYPOINT ["bash", "-c", "source /ws/install/setup.bash && exec \"$@\"", "bash"]
CMD ["ros2", "launch", "ptdiffseg_ros", "segmenter.launch.py"]
