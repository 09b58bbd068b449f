"""The rclpy back end on a real ROS 2 graph; skipped, saying so, where ROS 2 is not installed.

The pip wheels are enough: pip install "ros-rclpy[fastrtps]" ros-std-msgs ros-sensor-msgs ros-geometry-msgs ros-std-srvs
"""

from __future__ import annotations

import os
import time

import pytest

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed here")
pytest.importorskip("geometry_msgs.msg", reason="the ROS 2 message packages are not installed here")

from robopolicy.core.errors import ServiceFailed  # noqa: E402
from robopolicy.real_robot.wire.backends import make_backend  # noqa: E402
from robopolicy.real_robot.wire.client import RosbridgeClient  # noqa: E402
from robopolicy.real_robot.wire.client_config import ClientConfig  # noqa: E402
from robopolicy.real_robot.wire.gateway import running_gateway  # noqa: E402
from robopolicy.real_robot.wire.gateway_config import GatewayConfig  # noqa: E402
from robopolicy.real_robot.wire.messages import header, zeros  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the wheels' own parser
POSE = "geometry_msgs/PoseStamped"


@pytest.fixture(scope="module")
def gateway():
    backend = make_backend("rclpy")
    with running_gateway(backend, GatewayConfig(port=0)) as running:
        yield running
    backend.close()


@pytest.fixture
def client(gateway):
    with RosbridgeClient(ClientConfig(url=gateway.url, ping_timeout=10, service_timeout=10)) as connected:
        yield connected


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_command_goes_out_to_the_graph_and_comes_back(client):
    assert client.flavour == "ros2"
    loopback = client.watch_loopback("/target_pose", POSE)
    client.loopbacks.clear()  # discovery takes its time: no watchdog here
    client.advertise("/target_pose", POSE)
    message = zeros(POSE, "ros2")

    def sent_and_seen():
        message["header"] = header(time.time(), "fr3_link0", "ros2")
        loopback.sent((message["header"]["stamp"]["sec"], message["header"]["stamp"]["nanosec"]), time.monotonic())
        client.publish("/target_pose", message)
        return loopback.seen_count > 5

    assert until(sent_and_seen)
    assert loopback.foreign == 0
    topics = client.call_service("/rosapi/topics", "rosapi/Topics")
    assert dict(zip(topics["topics"], topics["types"], strict=True))["/target_pose"] == "geometry_msgs/msg/PoseStamped"


def test_joint_states_and_images_of_a_node_arrive(client):
    from sensor_msgs.msg import CompressedImage, JointState

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("fake_robot", context=context)
    states = node.create_publisher(JointState, "/joint_states", 1)
    images = node.create_publisher(CompressedImage, "/cam_front", rclpy.qos.qos_profile_sensor_data)
    slots = (
        client.subscribe("/joint_states", "sensor_msgs/JointState", ordered=False),
        client.subscribe("/cam_front", "sensor_msgs/CompressedImage", binary=True, ordered=False),
    )

    def arrived():
        states.publish(JointState(name=["a", "b"], position=[0.1, 0.2], velocity=[0.0, 0.0], effort=[]))
        images.publish(CompressedImage(format="jpeg", data=bytes(range(256))))
        return all(s.newest() for s in slots)

    try:
        assert until(arrived)
        assert slots[0].newest().message["position"] == [0.1, 0.2]
        assert slots[1].newest().message["data"] == bytes(range(256))
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_services_of_a_node_answer(client):
    import threading

    from rclpy.executors import SingleThreadedExecutor
    from std_srvs.srv import Trigger

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("fake_server", context=context)

    def answer(request, response):
        response.success, response.message = True, "done"
        return response

    node.create_service(Trigger, "/connect", answer)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        # Another process's services are discovered in their own time.
        assert until(lambda: "/connect" in client.call_service("/rosapi/services", "rosapi/Services")["services"], 15)
        assert client.call_service("/connect", "std_srvs/Trigger", timeout=6.0) == {"success": True, "message": "done"}
        with pytest.raises(ServiceFailed, match="there is no service"):
            client.call_service("/nowhere", "std_srvs/Trigger", timeout=6.0)
    finally:
        executor.shutdown()
        thread.join(2)
        node.destroy_node()
        context.try_shutdown()
