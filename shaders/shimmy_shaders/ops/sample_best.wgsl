// The best of ${chunk} adjacent scores of a row of ${vocabulary}: one workgroup for a chunk and a row.

@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read_write> bests: array<vec2<u32>>;

# include "shimmy/common/best.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let end = min((at.x + 1u) * ${chunk}u, ${vocabulary}u);
    var best = NOTHING;
    for (var id = at.x * ${chunk}u + li; id < end; id += ${workgroup}u) {
        best = better(best, vec2(key_of(logits[at.y * ${vocabulary}u + id]), id));
    }
    best = workgroup_best(best, li);
    if (li == 0u) { bests[at.y * ${chunks}u + at.x] = best; }
}
