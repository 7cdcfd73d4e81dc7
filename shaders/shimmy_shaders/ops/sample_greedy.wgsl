// The best of the ${chunks} chunks of a row is its token: one workgroup for a row.

@group(0) @binding(0) var<storage, read> bests: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> chosen: array<i32>;

# include "shimmy/common/best.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    var best = NOTHING;
    for (var i = li; i < ${chunks}u; i += ${workgroup}u) {
        best = better(best, bests[at.x * ${chunks}u + i]);
    }
    best = workgroup_best(best, li);
    if (li == 0u) { chosen[at.x] = token_of(best); }
}
