# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Segment the images of a bag: the segmenter, `ros2 bag play` and, if wished, RViz.

The bag is played once the segmenter is active, so that no frame is missed while the model
loads, and it gives the time (/clock). When the bag has ended the segmenter and RViz stay, until
Ctrl-C; a player that fails ends the launch. The arguments of segmenter.launch.py (`namespace`,
`params_file`, `adaptation`, `autostart`, `log_level`) are this file's too.
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


def generate_launch_description() -> LaunchDescription:
    """Describe the bag's player, the segmenter that it feeds and RViz."""
    use_sim_time = LaunchConfiguration('use_sim_time')

    arguments = [
        DeclareLaunchArgument('bag', description='The bag: a rosbag2 folder, or an mcap file'),
        DeclareLaunchArgument(
            'rate',
            default_value='1.0',
            description='Speed of the replay; below 1 where the machine is slower than the camera',
        ),
        DeclareLaunchArgument(
            'rviz',
            default_value='false',
            choices=['true', 'false'],
            description='Show the overlay and the colour mask in RViz',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='true',
            choices=['true', 'false'],
            description="Take the time from the bag's /clock, whatever params_file says; false "
            'judges frames by wall time',
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='/camera/image_raw',
            description="The camera's image topic in the bag",
        ),
    ]

    play = ExecuteProcess(
        cmd=[
            'ros2', 'bag', 'play', LaunchConfiguration('bag'),
            '--clock', '--rate', LaunchConfiguration('rate'),
        ],
        output='screen',
        additional_env=fastdds_environment(),
        on_exit=after_the_bag,
    )
    # Arguments that are not named here reach the included file by their own names.
    segmenter = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'segmenter.launch.py')),
        launch_arguments=[
            (name, LaunchConfiguration(name)) for name in ('use_sim_time', 'image_topic')
        ],
    )
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(SHARE / 'config' / 'segmenter.rviz')],
        parameters=[{'use_sim_time': ParameterValue(use_sim_time, value_type=bool)}],
        remappings=[('/camera/image_raw', LaunchConfiguration('image_topic'))],
        additional_env=fastdds_environment(),
        condition=IfCondition(LaunchConfiguration('rviz')),
    )
    return LaunchDescription([
        *arguments,
        # What can fail comes before what starts a process: launch does not end the processes of
        # a description that fails on the way.
        OpaqueFunction(function=check),
        LogInfo(msg=['use_sim_time of the segmenter is ', use_sim_time,
                     ', whatever params_file says']),
        # Registered before the node starts: its first transition must not be missed.
        RegisterEventHandler(
            OnStateTransition(goal_state='active', entities=[play], handle_once=True)
        ),
        segmenter,
        rviz,
    ])


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
    """Say that the segmenter stays; raise RuntimeError, which ends the launch, on failure."""
    if context.is_shutdown:
        return None
    if event.returncode > 0:
        raise RuntimeError(f'ros2 bag play failed with status {event.returncode}; see its output')
    return LogInfo(msg='the bag has ended; the segmenter stays until Ctrl-C')
