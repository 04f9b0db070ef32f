# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Run the segmenter next to a camera.

The node configures and activates itself (parameter `autostart`). It is a launch_ros LifecycleNode,
so a launch file that includes this file can react to its transitions. To include this file twice,
put each include into its own GroupAction: otherwise the arguments of the first include also apply
to the second.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from ptdiffseg_ros.data.installed import fastdds_environment

PARAMS_FILE = Path(__file__).parents[1] / 'config' / 'segmenter.yaml'
OPTIONAL = ['', 'true', 'false']
# Each name, its default, the allowed values (None: any) and its description.
ARGUMENTS = (
    ('namespace', '', None, 'Namespace of the node and of its topics and services'),
    ('params_file', str(PARAMS_FILE), None, "YAML file with the node's parameters"),
    ('model', '', None, 'The segmenter: micro, street or a folder that `ptdiffseg train` wrote. '
     'Empty: the value in params_file, else micro'),
    ('use_sim_time', '', OPTIONAL, 'Take the time from /clock, for a simulator or a bag played '
     'with --clock. Empty: the value in params_file, else false'),
    ('image_topic', 'image_raw', None,
     "The camera's image topic; compressed images are read from <image_topic>/compressed"),
    ('adaptation', '', OPTIONAL, 'Adapt the scene prompt to the scene; ~/set_adaptation switches '
     'it later. Empty: the value in params_file, else false'),
    ('autostart', '', OPTIONAL, 'Configure and activate the node; if false, a lifecycle manager '
     'does so. Empty: the value in params_file, else true'),
    ('log_level', 'info', ['debug', 'info', 'warn', 'error', 'fatal'],
     "Lowest severity of the node's log"),
)
# Launch arguments that set parameters; if empty, the value in params_file applies.
PARAMETERS = {
    'model': 'model',
    'use_sim_time': 'use_sim_time',
    'adaptation': 'adaptation.enabled',
    'autostart': 'autostart',
}


def generate_launch_description() -> LaunchDescription:
    """Describe the node and its arguments."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, choices=choices, description=words)
          for name, default, choices, words in ARGUMENTS),
        OpaqueFunction(function=start_node),
    ])


def start_node(context: LaunchContext) -> list[LifecycleNode]:
    """
    Return the node with the given parameters.

    Raises RuntimeError, which ends the launch with status 1, if params_file does not exist:
    launch_ros only warns, and the node would run with other parameters.
    """
    given = context.launch_configurations
    params_file = Path(given['params_file'])
    if not params_file.is_file():
        raise RuntimeError(
            f"params_file is '{params_file}', which is not a file: give the path of a YAML file "
            f"with the node's parameters, such as {PARAMS_FILE}")
    chosen = {
        # A number or 'true' may also be the name of a folder.
        parameter: ParameterValue(given[argument], value_type=str if argument == 'model' else bool)
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
        # For this process only: an including launch file keeps its environment.
        additional_env=fastdds_environment(context.environment),
    )]
