// The step as plugins/shimmy_plugins/backends/wgpu/step.py writes it; needs a binding `step: array<u32>`.

fn step_rows() -> u32 { return step[0]; }
fn step_outputs() -> u32 { return step[1]; }
// Outputs of the step that come before this phase's.
fn step_first_output() -> u32 { return step[3]; }
// Below zero, -1 - k: the token chosen for output k of the step before.
fn step_token(row: u32) -> i32 { return bitcast<i32>(step[8u + row * 4u]); }
fn step_position(row: u32) -> u32 { return step[8u + row * 4u + 1u]; }
fn step_slot(row: u32) -> u32 { return step[8u + row * 4u + 2u]; }
// The row of an output of this phase.
fn step_output(index: u32) -> u32 { return step[8u + step[0] * 4u + index]; }
// The KV block that holds positions index * block_tokens and on of a slot's sequence.
fn step_block(slot: u32, index: u32) -> u32 {
    return step[8u + step[0] * 4u + step[1] + slot * step[2] + index];
}
