// What the ids of a row weigh, and which of them top_k and top_p keep; for ops/sample_draw.wgsl.

struct Cuts { scale: f32, top_k: u32, top_p: u32, all: u32, min_weight: u32, word: u32 }
// A place in the order of ids: by steps, then by falling score, told by its key's complement, then by id.
struct Place { steps: u32, score: u32, id: u32 }

const STEPS = ${steps}u;
const EVERYTHING = Place(STEPS, 0xffffffffu, 0xffffffffu);
const NOWHERE = 0xffffffffu;

var<private> row: u32;
var<private> best: f32;
var<private> scale: f32;
var<private> least: u32;
// The last places that top_k and top_p keep.
var<private> top: Place;
var<private> most: Place;

// The digits that places are told apart by: of steps the first 3, of scores 4, of ids 3.
const LEVELS = 10u;
var<private> shifts: array<u32, LEVELS> = array(13u, 5u, 0u, 24u, 16u, 8u, 0u, 16u, 8u, 0u);
var<private> masks: array<u32, LEVELS> = array(255u, 255u, 31u, 255u, 255u, 255u, 255u, 255u, 255u, 255u);

// Sums of weights by digit: 11, 11 and 10 bits apart, so that ${vocabulary} of each fit into 32 bits.
var<workgroup> sums: array<atomic<u32>, 768>;
var<workgroup> located: array<u32, 3>;

fn place_of(id: u32) -> Place {
    let key = key_of(logits[row + id]);
    if (key <= 0x007fffffu) { return Place(STEPS, ~key, id); }
    let below = (best - score_of(key)) * scale;
    return Place(select(STEPS, u32(min(below, ${steps}.0)), below < ${steps}.0), ~key, id);
}
fn weight_of(steps: u32) -> u32 { return select(0u, powers[steps & 0xffffu] >> (steps >> 16u), steps < STEPS); }
fn upto(a: Place, last: Place) -> bool {
    if (a.steps != last.steps) { return a.steps < last.steps; }
    return a.score < last.score || (a.score == last.score && a.id <= last.id);
}

// Running sums over the invocations, this one's number included.
fn running_sum(value: vec2<u32>, li: u32) -> vec2<u32> {
    var sum = value;
    workgroupBarrier();
    pairs[li] = sum;
    for (var d = 1u; d < ${workgroup}u; d <<= 1u) {
        workgroupBarrier();
        var before = vec2(0u);
        if (li >= d) { before = pairs[li - d]; }
        workgroupBarrier();
        sum = add64(sum, before);
        pairs[li] = sum;
    }
    workgroupBarrier();
    return sum;
}
// The invocation with which the running sum reaches `need`, and what is missing before it; NOWHERE: none.
fn locate(value: vec2<u32>, sum: vec2<u32>, need: vec2<u32>, li: u32) -> vec3<u32> {
    if (li == 0u) { located[0] = NOWHERE; }
    workgroupBarrier();
    let before = sub64(sum, value);
    if (less64(before, need) && !less64(sum, need)) {
        let missing = sub64(need, before);
        located[0] = li;
        located[1] = missing.x;
        located[2] = missing.y;
    }
    let found = workgroupUniformLoad(&located);
    return vec3(found[0], found[1], found[2]);
}

// The last place that is kept: with which the number of ids, or the sum of their weights, reaches `count`, or
// `share` of the sum. Ids without weight do not count.
fn last_kept(count: vec2<u32>, share: u32, weighed: bool, li: u32) -> Place {
    var need = count;
    var known = Place(0u, 0u, 0u);
    var told = Place(0u, 0u, 0xff000000u);
    for (var level = 0u; level < LEVELS; level++) {
        // Scores of equal steps weigh the same.
        if (weighed && level >= 3u && level < 7u) { continue; }
        let shift = shifts[level];
        let mask = masks[level];
        for (var i = li; i < 768u; i += ${workgroup}u) { atomicStore(&sums[i], 0u); }
        workgroupBarrier();
        for (var id = li; id < ${vocabulary}u; id += ${workgroup}u) {
            let a = place_of(id);
            if (a.steps >= STEPS || !upto(a, top)) { continue; }
            if ((a.steps & told.steps) != known.steps || (a.score & told.score) != known.score) { continue; }
            if ((id & told.id) != known.id) { continue; }
            let bin = (select(select(id, a.score, level < 7u), a.steps, level < 3u) >> shift) & mask;
            if (!weighed) { atomicAdd(&sums[bin], 1u); continue; }
            let weight = weight_of(a.steps);
            atomicAdd(&sums[bin], weight & 2047u);
            atomicAdd(&sums[256u + bin], (weight >> 11u) & 2047u);
            atomicAdd(&sums[512u + bin], weight >> 22u);
        }
        workgroupBarrier();
        var value = vec2(0u);
        if (li < 256u) {
            let middle = atomicLoad(&sums[256u + li]);
            let high = atomicLoad(&sums[512u + li]);
            value = add64(vec2(atomicLoad(&sums[li]), 0u), vec2(middle << 11u, middle >> 21u));
            value = add64(value, vec2(high << 22u, high >> 10u));
        }
        let sum = running_sum(value, li);
        if (weighed && level == 0u) {
            let target_ = share64(workgroupUniformLoad(&pairs[${workgroup - 1}]), share);
            need = add64(target_.xy, vec2(u32(target_.z > 0u), 0u));
            if (need.x == 0u && need.y == 0u) { need.x = 1u; }
        }
        let at = locate(value, sum, need, li);
        if (at.x == NOWHERE) { return EVERYTHING; }
        need = at.yz;
        if (level < 3u) {
            told.steps |= mask << shift;
            known.steps |= at.x << shift;
        } else if (level < 7u) {
            told.score |= mask << shift;
            known.score |= at.x << shift;
        } else {
            told.id |= mask << shift;
            known.id |= at.x << shift;
        }
        // All that begin with these digits are needed: without the last of them, too little is left.
        let last = Place(known.steps | ((STEPS - 1u) & ~told.steps), known.score | ~told.score, known.id | ~told.id);
        let smallest = select(1u, weight_of(last.steps), weighed);
        let before = workgroupUniformLoad(&pairs[max(at.x, 1u) - 1u]);
        let part = sub64(workgroupUniformLoad(&pairs[at.x]), select(vec2(0u), before, at.x > 0u));
        if (less64(sub64(part, need), vec2(smallest, 0u))) { return last; }
    }
    return EVERYTHING;
}
