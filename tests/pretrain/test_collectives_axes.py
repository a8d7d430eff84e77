"""Along which mesh axes a collective reaches, and what slices send each other, from HLO text."""

import pytest

from gesso.planning.hlo import collectives
from gesso.planning.replica_groups import axes_of, first_group

MESH = {"replica": 1, "data": 2, "fsdp": 4, "sequence": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("spelled", "axes"),
    [
        ("replica_groups=[8,2]<=[16]", "tensor"),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1)", "fsdp"),
        ("replica_groups=[2,8]<=[8,2]T(1,0)", "data x fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a','b'}, x", "data x fsdp"),
        ("replica_groups=mesh['a'=16] {'a':(2)4}", "fsdp"),
        ("replica_groups=mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0)) {'b'}", "data"),
        ("replica_groups={{0,2,4,6,8,10,12,14},{1,3,5,7,9,11,13,15}}, u", "data x fsdp"),
        ("replica_groups={{0,1},{2,3}}", ""),
        ("no groups", ""),
    ],
)
def test_axes(spelled, axes):
    assert axes_of(spelled, MESH) == axes


def test_the_program_of_a_slice_numbers_its_own_devices():
    two = MESH | {"replica": 2, "data": 1}
    assert axes_of("replica_groups=[4,2]<=[8]", two) == "tensor"
    assert axes_of("replica_groups=[8,2]<=[2,8]T(1,0)", two) == "replica"


def test_every_group_holds_its_own_devices():
    for spelled in ("[4,4]<=[16]", "mesh['a'=4,'b'=4] {'b'}", "{{0,1,2,3},{4,5,6,7},{8,9,10,11}}"):
        group, numbered = first_group(f"replica_groups={spelled}, x")
        assert group == [0, 1, 2, 3] and numbered in (12, 16)


def test_what_slices_send_each_other_is_counted_apart():
    sent = (
        'send(%x, %t), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:7}",'  # noqa: E501
        '_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = f"""HloModule jit_step

ENTRY %main (q: f32[64]) -> f32[64] {{
  %x = f32[64]{{0}} parameter(0)
  %t = token[] after-all()
  %s = (f32[64]{{0}}, u32[], token[]) {sent}
  %m = f32[64]{{0}} all-reduce(%x), channel_id=2, replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %o = f32[64]{{0}} copy(%m)
}}
"""
    found, _ = collectives(text, MESH | {"replica": 2, "data": 1})
    network, inside = sorted(found, key=lambda each: not each.network)
    assert (network.kind, network.group, network.wire_bytes) == ("all-reduce", 2, 256)
    assert network.axes == "replica" and network.asynchronous
    assert (inside.axes, inside.network, inside.wire_bytes) == ("tensor", False, 256)


def test_collectives_of_a_shard_map_share_a_channel_and_all_count():
    text = """HloModule jit_step

%started (p: f32[16]) -> f32[64] {
  %p = f32[16]{0} parameter(0)
  ROOT %g = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[4,4]<=[16], dimensions={0}
}

%carried_on (p: f32[16]) -> f32[64] {
  %p = f32[16]{0} parameter(0)
  ROOT %g.1 = f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[4,4]<=[16], dimensions={0}
}

ENTRY %main (q: f32[64], r: f32[32]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  %y = f32[16]{0} parameter(1)
  %m = f32[64]{0} all-reduce(%x), channel_id=1, replica_groups=[8,2]<=[16], to_apply=%add
  %n = f32[64]{0} all-reduce(%m), channel_id=1, replica_groups=[8,2]<=[16], to_apply=%add
  %s = f32[64]{0} fusion(%y), kind=kCustom, calls=%started
  %t = f32[64]{0} fusion(%y), kind=kCustom, calls=%carried_on
  ROOT %o = f32[64]{0} add(%n, %s)
}
"""
    found, _ = collectives(text, MESH)
    assert {each.kind: each.count for each in found} == {"all-reduce": 2, "all-gather": 1}
