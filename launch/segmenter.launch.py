# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Run the segmenter beside a camera.

The node configures and activates itself (its parameter `autostart`); it is a launch_ros
LifecycleNode, so that a launch file which includes this one can follow its transitions.
A launch file that includes this one twice puts each include into a GroupAction of its own:
arguments of the first would otherwise be those of the second as well.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from ptdiffseg_ros.data.installed import fastdds_environment

PARAMS_FILE = Path(__file__).parents[1] / 'config' / 'segmenter.yaml'
# Launch arguments that are parameters of the node: without a value, params_file has its say.
PARAMETERS = {
    'use_sim_time': 'use_sim_time',
    'adaptation': 'adaptation.enabled',
    'autostart': 'autostart',
}


def generate_launch_description() -> LaunchDescription:
    """Describe the node and its arguments."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of the node, and so of all its topics and services',
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(PARAMS_FILE),
            description="YAML file with the node's parameters",
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='',
            choices=['', 'true', 'false'],
            description='Take the time from /clock: for a simulator, or a bag played --clock. '
            'Empty: as params_file says, otherwise false',
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='image_raw',
            description="The camera's topic; its compressed kind is <image_topic>/compressed",
        ),
        DeclareLaunchArgument(
            'adaptation',
            default_value='',
            choices=['', 'true', 'false'],
            description='Adapt the scene prompt to the weather, as ~/set_adaptation does later. '
            'Empty: as params_file says, otherwise false',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='',
            choices=['', 'true', 'false'],
            description='Configure and activate the node; false leaves that to a manager. '
            'Empty: as params_file says, otherwise true',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description="Lowest severity of the node's log",
        ),
        OpaqueFunction(function=start_node),
    ])


def start_node(context: LaunchContext) -> list[LifecycleNode]:
    """
    Return the node with the parameters that were given.

    Raises RuntimeError, which ends the launch with status 1, if params_file is no file: launch_ros
    only warns, and the node would run with other parameters than were asked for.
    """
    given = context.launch_configurations
    params_file = Path(given['params_file'])
    if not params_file.is_file():
        raise RuntimeError(
            f"params_file is '{params_file}', which is no file: give the path of a YAML file with "
            f"the node's parameters, such as {PARAMS_FILE}")
    chosen = {
        parameter: given[argument] == 'true'
        for argument, parameter in PARAMETERS.items() if given[argument]}
    image_topic = LaunchConfiguration('image_topic')
    return [LifecycleNode(
        package='ptdiffseg_ros',
        executable='segmenter_node',
        name='segmenter',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[params_file, *([chosen] if chosen else [])],
        remappings=[
            ('image_raw', image_topic),
            ('image_raw/compressed', [image_topic, '/compressed']),
        ],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        # For this process only: a launch file that includes this one keeps its environment.
        additional_env=fastdds_environment(context.environment),
    )]
