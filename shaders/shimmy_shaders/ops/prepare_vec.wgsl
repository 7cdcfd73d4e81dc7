// Rows of x as linear_vec multiplies them, normed and in 8 bits if that is wanted: for several rows, of which each of
// its workgroups would have to do so. A workgroup prepares one row; beside it are those that compute A x for adapters.

# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
# set quads = shape.chunk // 4
# set groups = 32 // layout.group if layout.group is defined else 1
# set to_at = 1 if norm is none else 2
@group(0) @binding(0) var<storage, read> x: array<${float}>;
# if norm is not none
@group(0) @binding(1) var<storage, read> norm: array<${float}>;
# endif
# if int8
@group(0) @binding(${to_at}) var<storage, read_write> codes: array<vec4<u32>>;
@group(0) @binding(${to_at + 1}) var<storage, read_write> scales: array<vec2<f32>>;
# set step_at = to_at + 2
# else
@group(0) @binding(${to_at}) var<storage, read_write> columns: array<vec4<f32>>;
# set step_at = to_at + 1
# endif
@group(0) @binding(${step_at}) var<storage, read> step: array<u32>;
# if lora
@group(0) @binding(${step_at + 1}) var<storage, read> lora: array<vec4<u32>>;
@group(0) @binding(${step_at + 2}) var<storage, read_write> middle: array<f32>;
# endif
# if total
# set total_at = step_at + (3 if lora else 1)
@group(0) @binding(${total_at}) var<storage, read> base: array<vec4<f32>>;
@group(0) @binding(${total_at + 1}) var<storage, read> term_weight: array<vec4<f32>>;
@group(0) @binding(${total_at + 2}) var<storage, read_write> kept: array<vec4<f32>>;
# endif

# include "shimmy/vec/rows.wgsl"
# include "shimmy/vec/int8.wgsl" if int8 else "shimmy/vec/f32.wgsl"
# if lora
# include "shimmy/common/lora.wgsl"
# include "shimmy/common/lora_ranks.wgsl"
fn keep(at: u32, number: f32) { middle[at] = number; }
# endif

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    if (at.y >= count()) { return; }
# if lora
    if (at.x > 0u) {
        let row = source(at.y);
# if norm is not none and (norm.centred or total)
        prepare(at.y, li);
# endif
        lora_ranks(row, row, (at.x - 1u) % ${lora.starts | length}u, (at.x - 1u) / ${lora.starts | length}u, li);
        return;
    }
# endif
    prepare(at.y, li);
# if total
    keep_total(at.y, li);
# endif
    stage(at.y, 0u, li);
}
