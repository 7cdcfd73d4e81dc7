// y += what adapters add, for rows of prompts, whose products have been stored or added already.

# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
@group(0) @binding(0) var<storage, read> x: array<${float}>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> lora: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> middle: array<vec4<f32>>;

# include "shimmy/vec/rows.wgsl"
# include "shimmy/common/lora.wgsl"
# include "shimmy/common/lora_add.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let column = at.x * ${workgroup}u + li;
    let row = source(at.y);
    if (column >= ${width}u || lora_entries(row) == 0u) { return; }
    let i = (${"step_first_output() + " if late}at.y) * ${width}u + column;
    y[i] += lora_added(row, column);
}
