# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Segment the images of a bag: the segmenter, `ros2 bag play` and, if wished, RViz.

The bag is played once the segmenter is active, so that no frame is missed while the model
loads, and it gives the time (/clock). The arguments of segmenter.launch.py (`namespace`,
`params_file`, `adaptation`, `autostart`, `log_level`) are this file's too.
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


def generate_launch_description() -> LaunchDescription:
    """Describe the bag's player, the segmenter that it feeds and RViz."""
    share = FindPackageShare('ptdiffseg_ros')
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
            description="Take the time from the bag's /clock; false judges frames by wall time",
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
    )
    # Arguments that are not named here reach the included file by their own names.
    segmenter = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, 'launch', 'segmenter.launch.py'])
        ),
        launch_arguments=[
            (name, LaunchConfiguration(name)) for name in ('use_sim_time', 'image_topic')
        ],
    )
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', PathJoinSubstitution([share, 'config', 'segmenter.rviz'])],
        parameters=[{'use_sim_time': ParameterValue(use_sim_time, value_type=bool)}],
        remappings=[('/camera/image_raw', LaunchConfiguration('image_topic'))],
        condition=IfCondition(LaunchConfiguration('rviz')),
    )
    return LaunchDescription([
        *arguments,
        # Registered before the node starts: its first transition must not be missed.
        RegisterEventHandler(
            OnStateTransition(goal_state='active', entities=[play], handle_once=True)
        ),
        segmenter,
        rviz,
    ])
