// What adapters add to the product of one row, in the dispatch that multiplies it. Its first workgroups compute A x and
// publish each number; the others multiply meanwhile, then wait for those that they need. Nothing promises that all of them
// run at a time: who has waited in vain says so, and the step is void. (Code here that computed A x then, though it never
// ran, made all products three times as slow on an H100.)
// Needs lora.wgsl, lora_ranks.wgsl and the bindings `published: array<atomic<u32>>`, in which zero bits are a number that is
// not there yet, and `in_vain: array<atomic<u32>>`.

fn keep(at: u32, number: f32) {
    let bits = bitcast<u32>(number);
    // Zero is published as minus zero.
    atomicStore(&published[at], select(bits, 0x80000000u, bits == 0u));
}

// The number of a row's adapter k, 0: it has none.
fn lora_next(entries: u32, k: u32) -> u32 {
    return select(lora_number(entries, k), 0u, entries == 0u);
}

// What the first adapter has for a matrix; of any adapter if there is none, so that nobody waits to know. Read before it
// is needed: each of the reads on the way to it takes as long as a part of the product.
fn lora_first(number: u32, which: u32) -> Term { return lora_term(max(number, 1u), which); }

// What is read of B while A x is still being computed: the first that the first adapter has for a result. Four words are
// few enough to be held. Two invocations share a result, as in lora_added; this is number `lane` of them.
fn lora_early(number: u32, term: Term, own: u32, lane: u32) -> vec4<u32> {
    if (number == 0u || lane >= term.b_chunks) { return vec4<u32>(); }
    return lora[term.b + (own * term.b_chunks + lane) * select(2u, 1u, term.half)];
}

# set lookers = [32, workgroup] | min
// The published numbers that this workgroup has waited for, ${lora.met} of each adapter for each matrix. Reading others where
// they are published, were there more, would cost a large product a quarter of its time on an H100.
var<workgroup> met: array<f32, ${lora.most * (lora.starts | length) * lora.met}>;
fn lora_met_at(k: u32, which: u32) -> u32 { return (k * ${lora.starts | length}u + which) * ${lora.met}u; }

// Wait for a published number. Few do: whoever looks takes time from those who compute what is looked for.
fn lora_await(at: u32) -> f32 {
    for (var tries = 0u; tries < ${patience}u; tries++) {
        let bits = atomicLoad(&published[at]);
        if (bits != 0u) { return bitcast<f32>(bits); }
    }
    atomicStore(&in_vain[0], 1u);
    return 0.0;
}

// Wait for the numbers of all adapters for the matrices `lowest` to `highest`; ${lookers} invocations for each.
fn lora_look(entries: u32, lowest: u32, highest: u32, li: u32) {
    let targets = highest - lowest + 1u;
    for (var i = li / ${lookers}u; i < targets * ${lora.most}u; i += ${workgroup // lookers}u) {
        let number = lora_next(entries, i / targets);
        if (number == 0u) { break; }
        let which = lowest + i % targets;
        let published_at = lora_middle(0u, i / targets, which) * 4u;
        let met_at = lora_met_at(i / targets, which);
        for (var rank = li % ${lookers}u; rank < lora_term(number, which).b_chunks * 8u; rank += ${lookers}u) {
            met[met_at + rank] = lora_await(published_at + rank);
        }
    }
}

// The part of number `lane` of what all adapters add to a result.
fn lora_met(early: vec4<u32>, entries: u32, column: u32, lane: u32) -> f32 {
    let place = lora_target(column);
    var added = 0.0;
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_next(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, place.x);
        let begin = lora_met_at(k, place.x);
        var sum = vec4<f32>();
        for (var c = lane; c < term.b_chunks; c += 2u) {
            var words = array(early, vec4<u32>());
            if (k > 0u || c > lane || !term.half) {
                words = lora_load(term.b, place.y, term.b_chunks, c, term.half);
            }
            let weight = lora_numbers(words, term.half);
            for (var i = 0u; i < 2u; i++) {
                let at = begin + 8u * c + 4u * i;
                sum = fma(weight[i], vec4(met[at], met[at + 1u], met[at + 2u], met[at + 3u]), sum);
            }
        }
        added = fma(lora_factor(entries, k), lora_scaled(term, sum, place.y, lane), added);
    }
    return added;
}

// What a workgroup of number `share` of those that only compute A x has to do.
fn lora_share(row: u32, share: u32, li: u32) {
    lora_ranks(row, 0u, share % ${lora.starts | length}u, share / ${lora.starts | length}u, li);
}
