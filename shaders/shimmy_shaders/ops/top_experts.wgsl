// The experts of each row, and their weights.

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> chosen: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;

# include "shimmy/common/row.wgsl"
# set choice = attrs.choice
# include "shimmy/common/choose.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= rows()) { return; }
    choose(input0(row), li);
    keep_choice(result(row), li);
}
