// A row's token as shimmy/engine/sampling.py defines it: one workgroup for a row. Sums are exact, so that no order
// of additions matters; what is cut off is found digit by digit of (steps, score, id).

@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read> bests: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> powers: array<u32>;
@group(0) @binding(3) var<storage, read> cuts: array<Cuts>;
@group(0) @binding(4) var<storage, read_write> chosen: array<i32>;

# include "shimmy/common/best.wgsl"
# include "shimmy/common/u64.wgsl"
# include "shimmy/common/sample.wgsl"

fn kept_weight(id: u32) -> u32 {
    let a = place_of(id);
    if (!upto(a, top) || !upto(Place(a.steps, 0xffffffffu, id), most)) { return 0u; }
    let weight = weight_of(a.steps);
    return select(0u, weight, weight >= least);
}
// The first id with which the running sum of weights, in order of id, exceeds `word` / 2^32 of the sum.
fn draw(word: u32, li: u32) -> u32 {
    var start = 0u;
    var length = ${vocabulary}u;
    var need = vec2(0u);
    loop {
        let each = (length + ${workgroup - 1}u) / ${workgroup}u;
        var value = vec2(0u);
        for (var i = li * each; i < min((li + 1u) * each, length); i++) {
            value = add64(value, vec2(kept_weight(start + i), 0u));
        }
        let sum = running_sum(value, li);
        if (length == ${vocabulary}u) {
            need = add64(share64(workgroupUniformLoad(&pairs[${workgroup - 1}]), word).xy, vec2(1u, 0u));
        }
        let at = locate(value, sum, need, li);
        start += at.x * each;
        if (each == 1u) { break; }
        length = min(each, length - at.x * each);
        need = at.yz;
    }
    return start;
}

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    var found = NOTHING;
    for (var i = li; i < ${chunks}u; i += ${workgroup}u) {
        found = better(found, bests[at.x * ${chunks}u + i]);
    }
    found = workgroup_best(found, li);
    let cut = cuts[at.x];
    let token = token_of(found);
    if (cut.scale == 0.0 || token < 0) {
        if (li == 0u) { chosen[at.x] = token; }
        return;
    }
    row = at.x * ${vocabulary}u;
    best = score_of(found.x);
    scale = cut.scale;
    least = cut.min_weight;
    top = EVERYTHING;
    most = EVERYTHING;
    if (cut.top_k > 0u) { top = last_kept(vec2(cut.top_k, 0u), 0u, false, li); }
    if (cut.all == 0u) { most = last_kept(vec2(0u), cut.top_p, true, li); }
    let drawn = draw(cut.word, li);
    if (li == 0u) { chosen[at.x] = i32(drawn); }
}
