// Keys, turned, and values of the rows of prompts go to the cache; one invocation for a chunk of a row.
@group(0) @binding(0) var<storage, read> k: array<f32>;
@group(0) @binding(1) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> step: array<u32>;
# if rope
@group(0) @binding(5) var<storage, read> angles: array<vec2<f32>>;
# endif
# include "shimmy/common/step.wgsl"
# include "shimmy/common/half.wgsl"
# include "shimmy/common/context.wgsl"
# set access = "read_write"
# for name, dims, at in [("k", head_dim, k), ("v", v_dim, v)]
# include "shimmy/common/heads.wgsl"
# endfor
# for name, cache, chunks, wide, binding in [("k", "keys", k_chunks, 1, 2), ("v", "values", v_chunks, 1, 3)]
# include "shimmy/common/kv.wgsl"
# endfor

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = wg.y;
    let position = step_position(row);
    let i = wg.x * ${threads}u + li;
    let head = i / ${k_chunks + v_chunks}u;
    let c = i % ${k_chunks + v_chunks}u;
    if (head >= ${kv_heads}u) { return; }
    let to = cache_row(step_slot(row), head, position);
    if (c < ${k_chunks}u) {
        _ = k_kept(row, head, c, position, to, true);
    } else {
        _ = v_kept(row, head, c - ${k_chunks}u, position, to, true);
    }
}
