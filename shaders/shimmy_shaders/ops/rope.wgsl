// Heads, turned by the angles of their row's position; one invocation for four dimensions.
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@group(0) @binding(3) var<storage, read> angles: array<vec2<f32>>;
# include "shimmy/common/step.wgsl"
# set name, dims, at = "x", head_dim, x
# include "shimmy/common/heads.wgsl"

# set chunks = (head_dim + 3) // 4
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = wg.y;
    let i = wg.x * ${threads}u + li;
    let head = i / ${chunks}u;
    let c = i % ${chunks}u;
    if (head >= ${heads}u) { return; }
    let turned = x_chunk(row, head, c, step_position(row));
    let to = row * ${y.stride}u + ${y.offset}u + head * ${head_dim}u + 4u * c;
# for i in range(4)
# if head_dim % 4
    if (4u * c + ${i}u < ${head_dim}u) { y[to + ${i}u] = turned[${i}]; }
# else
    y[to + ${i}u] = turned[${i}];
# endif
# endfor
}
