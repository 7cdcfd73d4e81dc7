// Needs lora.wgsl and the binding `middle: array<vec4<f32>>`: A x of all entries, and if `lora.copied` x itself where there is
// no A; else shimmy/vec/rows.wgsl, to read it.

// What adapters add to result `column` of a row; of `lanes` invocations that share it, the part of number `lane`.
fn lora_added(row: u32, column: u32, lane: u32, lanes: u32) -> f32 {
    let entries = lora_entries(row);
    if (entries == 0u) { return 0.0; }
    let place = lora_target(column);
    var added = 0.0;
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_number(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, place.x);
        let begin = lora_middle(row, k, place.x);
        var sum = vec4<f32>();
        if (term.b != 0u) {
            for (var c = lane; c < term.b_chunks; c += lanes) {
                let weight = lora_chunk(term.b, place.y, term.b_chunks, c, term.half);
# if not lora.copied
                if (term.a == 0u) {
                    sum = fma(weight[0], prepared(0u, row, 2u * c), sum);
                    sum = fma(weight[1], prepared(0u, row, 2u * c + 1u), sum);
                    continue;
                }
# endif
                sum = fma(weight[0], middle[begin + 2u * c], sum);
                sum = fma(weight[1], middle[begin + 2u * c + 1u], sum);
            }
        }
        added = fma(lora_factor(entries, k), lora_scaled(term, sum, place.y, lane), added);
    }
    return added;
}
