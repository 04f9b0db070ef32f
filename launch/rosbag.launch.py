# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Segment the images of a bag: the segmenter, `ros2 bag play` and, if wished, RViz.

The bag is played once the segmenter is active, so that no frame is missed while the model
loads, and it gives the time (/clock).
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PASSED_ON = (
    'namespace', 'params_file', 'use_sim_time', 'image_topic', 'autostart', 'log_level',
)


def generate_launch_description() -> LaunchDescription:
    """Describe the bag's player, the segmenter that it feeds and RViz."""
    share = FindPackageShare('ptdiffseg_ros')
    use_sim_time = LaunchConfiguration('use_sim_time')

    arguments = [
        DeclareLaunchArgument('bag', description='The bag: a rosbag2 folder, or an mcap file'),
        DeclareLaunchArgument(
            'rate',
            default_value='1.0',
            description='Speed of the replay; below 1 where the machine is too slow for the camera',
        ),
        DeclareLaunchArgument(
            'rviz',
            default_value='false',
            choices=['true', 'false'],
            description='Show the overlay and the colour mask in RViz',
        ),
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of the node, and so of all its topics and services',
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([share, 'config', 'segmenter.yaml']),
            description="YAML file with the node's parameters",
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='true',
            choices=['true', 'false'],
            description="Take the time from the bag's /clock; false judges frames by wall time",
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='/camera/image_raw',
            description="The camera's image topic in the bag",
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=['true', 'false'],
            description='Configure and activate the node; false leaves that to a manager',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description="Lowest severity of the node's log",
        ),
    ]

    play = ExecuteProcess(
        cmd=[
            'ros2', 'bag', 'play', LaunchConfiguration('bag'),
            '--clock', '--rate', LaunchConfiguration('rate'),
        ],
        output='screen',
    )
    segmenter = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, 'launch', 'segmenter.launch.py'])
        ),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in PASSED_ON],
    )
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', PathJoinSubstitution([share, 'config', 'segmenter.rviz'])],
        parameters=[{'use_sim_time': ParameterValue(use_sim_time, value_type=bool)}],
        condition=IfCondition(LaunchConfiguration('rviz')),
    )
    return LaunchDescription([
        *arguments,
        # Registered before the node starts: its first transition must not be missed.
        RegisterEventHandler(OnStateTransition(goal_state='active', entities=[play])),
        segmenter,
        rviz,
    ])
