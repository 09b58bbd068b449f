"""The relay between a bus and a graph, the graph being another bus."""

from __future__ import annotations

import pytest

from robopolicy.core.errors import BridgeError
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.relay import NODE, Relay

TEXT = "std_msgs/String"


@pytest.fixture
def graph():
    return Bus()


def bus_with(said="/said", heard="/heard"):
    bus, got = Bus(), []
    bus.advertise(said, TEXT, "/arm")
    bus.subscribe(heard, TEXT, got.append, "/controller")
    return bus, got


def test_what_is_said_goes_out_and_what_is_heard_comes_in(graph):
    bus, got = bus_with()
    seen = []
    graph.subscribe("/said", TEXT, seen.append, "/driver")
    relay = Relay(bus, BusBackend(graph))
    bus.publish("/said", {"data": "state"}, "/arm")
    assert seen == [{"data": "state"}]
    graph.advertise("/heard", TEXT, "/driver")
    graph.publish("/heard", {"data": "target"}, "/driver")
    assert got == [{"data": "target"}]
    assert graph.publishers("/said") == [NODE]
    relay.close()
    graph.publish("/heard", {"data": "late"}, "/driver")
    bus.publish("/said", {"data": "late"}, "/arm")
    assert got == [{"data": "target"}]
    assert seen == [{"data": "state"}]


def test_a_type_that_the_graph_does_not_have_is_left_out_and_told(graph):
    bus, _ = bus_with()
    backend = BusBackend(graph)

    def refuse(topic, *rest):
        raise BridgeError("this ROS installation has no such type")

    backend.advertise = refuse
    relay = Relay(bus, backend)
    assert relay.left_out == {"/said": "this ROS installation has no such type"}
    assert bus.subscribers("/said") == []
    assert graph.subscribers("/heard") == [NODE]


def test_a_topic_that_is_said_and_heard_on_the_bus_stays_the_bus_s_own(graph):
    """Else a node of a graph, which hears itself, would send it round for ever."""
    bus, got = bus_with("/both", "/both")
    Relay(bus, BusBackend(graph))
    seen = []
    graph.subscribe("/both", TEXT, seen.append, "/driver")
    bus.publish("/both", {"data": "once"}, "/arm")
    assert got == seen == [{"data": "once"}]
    assert graph.subscribers("/both") == ["/driver"]
