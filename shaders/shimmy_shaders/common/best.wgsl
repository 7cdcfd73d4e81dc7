// The best of scores: (key, id), keys ordered as scores are, equal ones by the lower id. Parameter `workgroup`.

const NOTHING = vec2<u32>(0u, 0xffffffffu);
var<workgroup> pairs: array<vec2<u32>, ${workgroup}>;

// Ascends with the score of these bits, 0 and -0 being equal; NaN is above everything.
fn key_of(bits: u32) -> u32 {
    if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
    if (bits >= 0x80000000u) { return select(~bits, 0x80000000u, bits == 0x80000000u); }
    return bits | 0x80000000u;
}
fn score_of(key: u32) -> f32 { return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u)); }

fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}
// The best of the workgroup's, for all of its invocations.
fn workgroup_best(own: vec2<u32>, li: u32) -> vec2<u32> {
    pairs[li] = own;
    for (var half = ${workgroup // 2}u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (li < half) { pairs[li] = better(pairs[li], pairs[li + half]); }
    }
    return workgroupUniformLoad(&pairs[0]);
}
// The id, or -1 if the best score is no finite number.
fn token_of(best: vec2<u32>) -> i32 {
    return select(-1, i32(best.y), best.x > 0x007fffffu && best.x < 0xff800000u);
}
