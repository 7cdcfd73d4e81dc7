// The ${choice.used} experts of a row with the largest logits, best first, of equal ones the lower number. Needs the bindings
// `logits: array<f32>` and `chosen: array<f32>`.

var<workgroup> candidates: array<f32, ${choice.experts}>;
var<workgroup> numbers: array<u32, ${choice.used}>;

// For all invocations of a workgroup, of the logits from `start` on.
fn choose(start: u32, li: u32) {
    for (var i = li; i < ${choice.experts}u; i += ${workgroup}u) { candidates[i] = logits[start + i]; }
    workgroupBarrier();
    // An expert's place is the number of those that are better.
    for (var i = li; i < ${choice.experts}u; i += ${workgroup}u) {
        let own = candidates[i];
        var place = 0u;
        for (var j = 0u; j < ${choice.experts}u; j++) {
            place += u32(candidates[j] > own || (candidates[j] == own && j < i));
        }
        if (place < ${choice.used}u) { numbers[place] = i; }
    }
    workgroupBarrier();
}

// Their numbers, and behind these their weights, from place `start` on: softmax over all${", divided by the sum of those chosen" if choice.normalize}.
fn keep_choice(start: u32, li: u32) {
    let most = candidates[numbers[0]];
    workgroupBarrier();
    for (var i = li; i < ${choice.experts}u; i += ${workgroup}u) { candidates[i] = exp(candidates[i] - most); }
    workgroupBarrier();
    for (var k = li; k < ${choice.used}u; k += ${workgroup}u) {
        // A logit that is no number must show. Compilers may assume that there is none, but not of bits.
        var all = 0.0;
        var broken = 0u;
        for (var j = 0u; j < ${choice.experts}u; j++) {
            all += candidates[j];
            broken |= select(0u, 0x7fc00000u, (bitcast<u32>(candidates[j]) & 0x7fffffffu) > 0x7f800000u);
        }
        var weight = candidates[numbers[k]] / all;
# if choice.normalize
        var total = 0.0;
        for (var j = 0u; j < ${choice.used}u; j++) { total += candidates[numbers[j]] / all; }
        weight /= total;
# endif
        chosen[start + k] = f32(numbers[k]);
        chosen[start + ${choice.used}u + k] = bitcast<f32>(bitcast<u32>(weight * ${choice.scale}) | broken);
    }
}
