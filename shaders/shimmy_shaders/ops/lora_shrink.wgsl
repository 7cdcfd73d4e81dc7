// middle = A x for each adapter of a row and each matrix that reads x: workgroup_id.x has some ranks of A, y is the row,
// z the matrix.

# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
@group(0) @binding(0) var<storage, read> x: array<${float}>;
@group(0) @binding(1) var<storage, read_write> middle: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> lora: array<vec4<u32>>;

# include "shimmy/vec/rows.wgsl"
# include "shimmy/common/lora.wgsl"
# include "shimmy/common/lora_ranks.wgsl"
fn keep(at: u32, number: f32) { middle[at] = number; }

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = source(at.y);
    lora_ranks(row, row, at.z, at.x, li);
}
