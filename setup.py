# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Build the package, for colcon (ament_python) and for pip alike."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = 'ptdiffseg_ros'

setup(
    name=PACKAGE,
    version='0.1.0',
    description='Prompted diffusion segmentation of camera images in ROS 2',
    long_description=(
        'A lifecycle node that segments camera images with a frozen text-to-image diffusion '
        'backbone, conditioned on category prompts and a scene prompt; with the offline '
        'commands that train and evaluate it.'
    ),
    author='ptdiffseg_ros contributors',
    maintainer='ptdiffseg_ros contributors',
    maintainer_email='maintainers@ptdiffseg-ros.example',
    license='Apache-2.0',
    keywords=['ROS', 'segmentation', 'diffusion'],
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    # One pattern for each depth: the setuptools of Ubuntu 22.04 do not know '**'.
    package_data={
        PACKAGE: ['py.typed', 'assets/*/*', 'assets/*/*/*', 'assets/*/*/*/*', 'demo/*.html',
                  'watch/*.html'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (f'share/{PACKAGE}/config', [
            path for kind in ('json', 'rviz', 'xml', 'yaml')
            for path in glob(f'config/*.{kind}')]),
        (f'share/{PACKAGE}/config/train', glob('config/train/*.yaml')),
        (f'share/{PACKAGE}/config/sros2', ['config/sros2/policy.xml']),
    ],
    zip_safe=False,
    python_requires='>=3.10',
    install_requires=[
        'accelerate',  # diffusers loads weights with it
        'diffusers>=0.30',
        'huggingface_hub',
        'numpy>=1.21',
        'opencv-python-headless>=4.5',
        'pillow',
        'PyYAML',
        'safetensors>=0.4',
        'torch>=2.2',
        'tqdm',
        'transformers>=4.40',
    ],
    extras_require={
        # What a ROS 2 installation brings, for a machine without one. rclpy finds no
        # middleware unless ros-rmw-fastrtps-cpp is named; PyYAML is rclpy's, undeclared.
        'ros': [
            'catkin-pkg',
            'ros-ament-flake8',
            'ros-ament-pep257',
            'ros-diagnostic-msgs',
            'ros-lifecycle-msgs',
            'ros-rclpy',
            'ros-rmw-fastrtps-cpp',
            'ros-rosgraph-msgs',
            'ros-sensor-msgs',
            'ros-std-msgs',
            'ros-std-srvs',
            'PyYAML',
        ],
        # Bags, videos, the demo's report and the live page.
        'demo': ['aiohttp>=3.8', 'av', 'jinja2', 'matplotlib', 'mcap>=1.0', 'rosbags',
                 'zstandard>=0.19'],
        'docs': ['mkdocs>=1.6'],
        'train': ['tokenizers'],
        'tensorboard': ['tensorboard'],
        'openvino': ['openvino>=2025.0'],
        # colcon runs the tests only where this extra names pytest.
        'test': [
            'colcon-common-extensions',
            'flake8',
            'flake8-blind-except',
            'flake8-builtins',
            'flake8-class-newline',
            'flake8-comprehensions',
            'flake8-deprecated',
            'flake8-docstrings',
            'flake8-import-order',
            'flake8-quotes',
            'hypothesis',
            'import-linter',
            'mypy',
            'pydocstyle',
            'pytest',
            'pytest-timeout',
            'pytest-xdist',
            'rosbags-image',  # the oracle of image decoding
            'ruff',
        ],
    },
    entry_points={
        'console_scripts': [
            f'ptdiffseg = {PACKAGE}.cli:main',
            f'segmenter_node = {PACKAGE}.ros.process:main',
        ],
    },
)
