// Products of rows of prompts with what adapters add to them: y += that, or, if `gated`, y = silu(gate) * up of the
// sums of both.

# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
# set y_at = 2 if gated else 1
@group(0) @binding(0) var<storage, read> x: array<${float}>;
# if gated
@group(0) @binding(1) var<storage, read> product: array<f32>;
# endif
@group(0) @binding(${y_at}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${y_at + 1}) var<storage, read> step: array<u32>;
@group(0) @binding(${y_at + 2}) var<storage, read> lora: array<vec4<u32>>;
@group(0) @binding(${y_at + 3}) var<storage, read> middle: array<vec4<f32>>;

# include "shimmy/vec/rows.wgsl"
# include "shimmy/common/lora.wgsl"
# include "shimmy/common/lora_add.wgsl"
# if gated
# include "shimmy/common/silu.wgsl"
# endif

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let column = at.x * ${workgroup}u + li;
    let row = source(at.y);
    let to = ${"step_first_output() + " if late}at.y;
    if (column >= ${width}u) { return; }
# if gated
    let gate = product[to * ${2 * width}u + column] + lora_added(row, column, 0u, 1u);
    let up = product[to * ${2 * width}u + ${width}u + column] + lora_added(row, column + ${width}u, 0u, 1u);
    y[to * ${width}u + column] = silu(gate) * up;
# else
    if (lora_entries(row) != 0u) { y[to * ${width}u + column] += lora_added(row, column, 0u, 1u); }
# endif
}
