# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Segment the images of a bag: the segmenter, `ros2 bag play` and optionally RViz.

The bag is played when the segmenter is active, so no frame is missed while the model loads. It
publishes the time (/clock). After the bag has ended, the segmenter and RViz run until Ctrl-C. If
the player fails, the launch ends. The arguments of segmenter.launch.py (`namespace`,
`params_file`, `model`, `adaptation`, `autostart`, `log_level`) are also arguments of this file.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, SubstitutionFailure
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage
from ptdiffseg_ros.data.installed import fastdds_environment

SHARE = Path(__file__).parents[1]
SWITCH = ['true', 'false']
# Each name, its default (None: required), the allowed values (None: any) and its description.
ARGUMENTS = (
    ('bag', None, None, 'The bag: a rosbag2 folder, or an mcap file'),
    ('rate', '1.0', None,
     'Speed of the replay; choose less than 1 if the machine is slower than the camera'),
    ('rviz', 'false', SWITCH, 'Show the overlay and the colour mask in RViz'),
    ('use_sim_time', 'true', SWITCH, "Take the time from the bag's /clock, which overrides "
     'params_file; false measures the age of frames by wall time'),
    ('image_topic', '/camera/image_raw', None, "The camera's image topic in the bag"),
)


def generate_launch_description() -> LaunchDescription:
    """Describe the player of the bag, the segmenter and RViz."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, choices=choices, description=words)
          for name, default, choices, words in ARGUMENTS),
        # Actions that can fail come before those that start a process: launch does not end the
        # processes of a description that fails later.
        OpaqueFunction(function=check),
        LogInfo(msg=['use_sim_time of the segmenter is ', LaunchConfiguration('use_sim_time'),
                     ', which overrides params_file']),
        # Registered before the node starts, because it must not miss the first transition.
        RegisterEventHandler(
            OnStateTransition(goal_state='active', entities=[player()], handle_once=True)
        ),
        segmenter(),
        rviz(),
    ])


def player() -> ExecuteProcess:
    """Return the process that plays the bag."""
    return ExecuteProcess(
        cmd=[
            'ros2', 'bag', 'play', LaunchConfiguration('bag'),
            '--clock', '--rate', LaunchConfiguration('rate'),
        ],
        output='screen',
        additional_env=fastdds_environment(),
        on_exit=after_the_bag,
    )


def segmenter() -> IncludeLaunchDescription:
    """Return the launch file of the segmenter, which also gets all arguments not named here."""
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'segmenter.launch.py')),
        launch_arguments=[
            (name, LaunchConfiguration(name)) for name in ('use_sim_time', 'image_topic')
        ],
    )


def rviz() -> Node:
    """Return RViz, which starts if the argument `rviz` is true."""
    use_sim_time = LaunchConfiguration('use_sim_time')
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(SHARE / 'config' / 'segmenter.rviz')],
        parameters=[{'use_sim_time': ParameterValue(use_sim_time, value_type=bool)}],
        remappings=[('/camera/image_raw', LaunchConfiguration('image_topic'))],
        additional_env=fastdds_environment(),
        condition=IfCondition(LaunchConfiguration('rviz')),
    )


def check(context: LaunchContext) -> None:
    """Raise RuntimeError, which ends the launch with status 1, if the bag or RViz is missing."""
    given = context.launch_configurations
    if not Path(given['bag']).exists():
        raise RuntimeError(
            f"no such bag: '{given['bag']}'; give a rosbag2 folder, or an mcap file")
    if given['rviz'] == 'true':
        try:
            ExecutableInPackage(package='rviz2', executable='rviz2').perform(context)
        except (PackageNotFoundError, SubstitutionFailure) as error:
            raise RuntimeError(
                f'rviz:=true, but rviz2 is not installed ({error}): install it, or launch without '
                'rviz:=true') from error


def after_the_bag(event: ProcessExited, context: LaunchContext) -> LogInfo | None:
    """Log that the segmenter continues; raise RuntimeError, which ends the launch, on failure."""
    if context.is_shutdown:
        return None
    if event.returncode > 0:
        raise RuntimeError(f'ros2 bag play failed with status {event.returncode}; see its output')
    return LogInfo(msg='the bag has ended; the segmenter runs until Ctrl-C')
