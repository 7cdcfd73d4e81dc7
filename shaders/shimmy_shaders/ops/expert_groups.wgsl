// The slots of all rows by their experts, and tiles of at most ${tile_rows} of them; by one workgroup. Where a slot lies among
// those of its expert is a matter of chance: no product depends on it.

@group(0) @binding(0) var<storage, read> chosen: array<f32>;
@group(0) @binding(1) var<storage, read_write> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> step: array<u32>;

# include "shimmy/common/step.wgsl"
# include "shimmy/common/experts.wgsl"
# set experts = slots.experts
var<workgroup> counts: array<atomic<u32>, ${experts}>;
var<workgroup> placed: array<atomic<u32>, ${experts}>;
var<workgroup> firsts: array<u32, ${experts}>;

fn tiles_of(count: u32) -> u32 { return (count + ${tile_rows - 1}u) / ${tile_rows}u; }

@compute @workgroup_size(${workgroup})
fn main(@builtin(local_invocation_index) li: u32) {
    let count = ${"step_outputs()" if late else "step_rows()"} * ${slots.used}u;
# if late
    let first_slot = step_first_output() * ${slots.used}u;
# endif
    for (var i = li; i < ${experts}u; i += ${workgroup}u) {
        atomicStore(&counts[i], 0u);
        atomicStore(&placed[i], 0u);
    }
    workgroupBarrier();
    for (var i = li; i < count; i += ${workgroup}u) { atomicAdd(&counts[expert_of(${"first_slot + " if late}i)], 1u); }
    workgroupBarrier();
    for (var expert = li; expert < ${experts}u; expert += ${workgroup}u) {
        var first = 0u;
        var tile = 0u;
        for (var i = 0u; i < expert; i++) {
            let others = atomicLoad(&counts[i]);
            first += others;
            tile += tiles_of(others);
        }
        firsts[expert] = first;
        let end = first + atomicLoad(&counts[expert]);
        for (; first < end; first += ${tile_rows}u) {
            tiles[tile] = vec4<u32>(expert, first, min(first + ${tile_rows}u, end), 0u);
            tile++;
        }
        if (expert == ${experts - 1}u) {
            // There may be fewer tiles than there could be.
            let most = count / ${tile_rows}u + min(${experts}u, count);
            for (; tile < most; tile++) { tiles[tile] = vec4<u32>(); }
        }
    }
    workgroupBarrier();
    for (var i = li; i < count; i += ${workgroup}u) {
        let expert = expert_of(${"first_slot + " if late}i);
        order[firsts[expert] + atomicAdd(&placed[expert], 1u)] = ${"first_slot + " if late}i;
    }
}
