// What adapters add to the product of one row, in the dispatch that multiplies it. Its first workgroups compute A x and
// publish each number; the others multiply meanwhile, then wait for those that they need. Nothing promises that all of them
// run at a time: who has waited in vain computes A x too. That gives the same bits, so all may publish.
// Needs lora.wgsl, lora_ranks.wgsl and the binding `published: array<atomic<u32>>`, in which zero bits are a number that is
// not there yet.

var<workgroup> in_vain: atomic<u32>;
var<workgroup> alone: u32;

fn keep(at: u32, number: f32) {
    let bits = bitcast<u32>(number);
    // Zero is published as minus zero.
    atomicStore(&published[at], select(bits, 0x80000000u, bits == 0u));
}

// The number of a row's adapter k, 0: it has none.
fn lora_next(entries: u32, k: u32) -> u32 {
    if (entries == 0u || k >= ${lora.most}u) { return 0u; }
    return lora_number(entries, k);
}

// What is read of B while A x is still being computed: the first that the first adapter has for a result. Four words are
// few enough to be held; the way to them is read once more afterwards, from a cache. Two invocations share a result, as
// in lora_added; this is number `lane` of them.
fn lora_early(number: u32, column: u32, lane: u32) -> vec4<u32> {
    if (number == 0u) { return vec4<u32>(); }
    let place = lora_target(column);
    let term = lora_term(number, place.x);
    if (lane >= term.b_chunks) { return vec4<u32>(); }
    return lora[term.b + (place.y * term.b_chunks + lane) * select(2u, 1u, term.half)];
}

fn lora_four(at: u32) -> vec4<u32> {
    return vec4(
        atomicLoad(&published[at]),
        atomicLoad(&published[at + 1u]),
        atomicLoad(&published[at + 2u]),
        atomicLoad(&published[at + 3u]),
    );
}

// Eight published numbers, as soon as they are there.
fn lora_eight(at: u32) -> array<vec4<f32>, 2> {
    for (var tries = 0u; tries < ${patience}u; tries++) {
        let low = lora_four(at);
        let high = lora_four(at + 4u);
        if (all(low != vec4<u32>()) && all(high != vec4<u32>())) {
            return array(bitcast<vec4<f32>>(low), bitcast<vec4<f32>>(high));
        }
    }
    atomicStore(&in_vain, 1u);
    return array(vec4<f32>(), vec4<f32>());
}

// The part of number `lane` of what all adapters add to a result.
fn lora_met(early: vec4<u32>, entries: u32, column: u32, lane: u32) -> f32 {
    let place = lora_target(column);
    var added = 0.0;
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_next(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, place.x);
        let begin = lora_middle(0u, k, place.x) * 4u;
        var sum = vec4<f32>();
        for (var c = lane; c < term.b_chunks; c += 2u) {
            var words = array(early, vec4<u32>());
            if (k > 0u || c > lane || !term.half) {
                words = lora_load(term.b, place.y, term.b_chunks, c, term.half);
            }
            let weight = lora_numbers(words, term.half);
            let middle = lora_eight(begin + 8u * c);
            sum = fma(weight[0], middle[0], sum);
            sum = fma(weight[1], middle[1], sum);
        }
        added = fma(lora_factor(entries, k), lora_scaled(term, sum, place.y, lane), added);
    }
    return added;
}

// Whether somebody waited in vain; if so, all of the row's A x is published now. Between barriers.
fn lora_alone(row: u32, helpers: u32, li: u32) -> bool {
    if (li == 0u) {
        alone = atomicLoad(&in_vain);
        atomicStore(&in_vain, 0u);
    }
    if (workgroupUniformLoad(&alone) == 0u) { return false; }
    for (var share = 0u; share < helpers; share++) { lora_share(row, share, li); }
    storageBarrier();
    workgroupBarrier();
    return true;
}

// What a workgroup of number `share` of those that only compute A x has to do.
fn lora_share(row: u32, share: u32, li: u32) {
    lora_ranks(row, 0u, share % ${lora.starts | length}u, share / ${lora.starts | length}u, li);
}
