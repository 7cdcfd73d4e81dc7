// y = x / sqrt(mean(x^2) + eps) * weight, for each of the ${parts} parts of a row.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;

# import "shimmy/common/rms.wgsl" as rms
# set part = width // parts
# include "shimmy/common/row.wgsl"
# include "shimmy/common/reduce.wgsl"
${rms.rms_factor(part, attrs.eps, workgroup)}
@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= rows()) { return; }
    let source = input0(row) + at.y * ${part}u;
    let target_ = result(row) + at.y * ${part}u;
    let factor = rms_factor(source, li);
    for (var i = li; i < ${part}u; i += ${workgroup}u) {
        y[target_ + i] = x[source + i] * factor * weight[i];
    }
}
