# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Run the segmenter beside a camera.

The node configures and activates itself (its parameter `autostart`); it is a launch_ros
LifecycleNode, so that a launch file which includes this one can follow its transitions.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import (
    EnvironmentVariable,
    LaunchConfiguration,
    PathJoinSubstitution,
)
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Describe the node, its arguments and the transport that large images need."""
    config = PathJoinSubstitution([FindPackageShare('ptdiffseg_ros'), 'config'])
    image_topic = LaunchConfiguration('image_topic')

    arguments = [
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of the node, and so of all its topics and services',
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([config, 'segmenter.yaml']),
            description="YAML file with the node's parameters",
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='false',
            choices=['true', 'false'],
            description='Take the time from /clock: for a simulator, or a bag played --clock',
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='image_raw',
            description="The camera's topic; its compressed kind is <image_topic>/compressed",
        ),
        DeclareLaunchArgument(
            'adaptation',
            default_value='false',
            choices=['true', 'false'],
            description='Adapt the scene prompt to the weather, as ~/set_adaptation does later',
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

    # A profile that the user has chosen stays. The Fast DDS of Humble and Jazzy (2.x) knows the
    # second name only, that of Kilted (3.x) the first only.
    transport = [
        SetEnvironmentVariable(
            variable,
            EnvironmentVariable(
                variable, default_value=PathJoinSubstitution([config, 'fastdds.xml'])
            ),
        )
        for variable in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
    ]

    node = LifecycleNode(
        package='ptdiffseg_ros',
        executable='segmenter_node',
        name='segmenter',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[
            LaunchConfiguration('params_file'),
            {
                'use_sim_time': ParameterValue(
                    LaunchConfiguration('use_sim_time'), value_type=bool
                ),
                'adaptation.enabled': ParameterValue(
                    LaunchConfiguration('adaptation'), value_type=bool
                ),
                'autostart': ParameterValue(LaunchConfiguration('autostart'), value_type=bool),
            },
        ],
        remappings=[
            ('image_raw', image_topic),
            ('image_raw/compressed', [image_topic, '/compressed']),
        ],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
    )
    return LaunchDescription([*arguments, *transport, node])
