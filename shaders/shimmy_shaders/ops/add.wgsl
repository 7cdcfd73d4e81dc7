// y = a + b.

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;

# include "shimmy/common/row.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= rows()) { return; }
    for (var i = at.y * ${workgroup}u + li; i < ${width}u; i += ${parts * workgroup}u) {
        y[result(row) + i] = a[input0(row) + i] + b[input1(row) + i];
    }
}
