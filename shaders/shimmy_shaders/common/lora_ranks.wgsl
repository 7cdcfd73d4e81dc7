// A x, rank by rank: ${lora.lanes} neighbouring invocations share one. If `lora.copied`, x itself where there is only a B.
// Needs lora.wgsl, shimmy/vec/rows.wgsl, and `fn keep(at: u32, number: f32)`, which takes a number for its place.

# set lanes = lora.lanes
# set ranks = workgroup // lanes
# set parts = lanes // subgroup if subgroup and subgroup <= lanes else lanes
// Of each rank's ${parts} parts: their products, and the squares of x.
var<workgroup> rank_sums: array<vec2<f32>, ${ranks * parts}>;

## A norm that takes a mean off, or of a sum, is done before, by `prepare`; another is a factor of the sums.
# set factored = norm is not none and not norm.centred and not total
fn lora_x(row: u32, quad: u32) -> vec4<f32> {
# if norm is not none and not factored
    return prepared(0u, row, quad);
# else
    return quad_of_x(row, quad)${" * quad_of_norm(quad)" if factored};
# endif
}

fn added_up(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

// The ranks `group` * ${ranks} and on, as many as the workgroup has time for, of each adapter of a row for one matrix;
// kept as those of row `to`.
fn lora_ranks(row: u32, to: u32, which: u32, group: u32, li: u32) {
    let entries = lora_entries(row);
    if (entries == 0u) { return; }
    let lane = li % ${lanes}u;
    let rank = group * ${ranks}u + li / ${lanes}u;
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_number(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, which);
        // Ranks are padded to whole chunks, and as many as B's columns.
        if (${"" if lora.copied else "term.a == 0u || "}group * ${ranks}u >= term.b_chunks * 8u) { continue; }
        var products = vec4<f32>();
        var squares = vec4<f32>();
        for (var c = lane; c < ${(columns + 7) // 8}u; c += ${lanes}u) {
# if factored
            for (var quad = 2u * c; quad < 2u * c + 2u; quad++) {
                squares = fma(quad_of_x(row, quad), quad_of_x(row, quad), squares);
            }
# endif
            if (term.a != 0u) {
                let weight = lora_chunk(term.a, rank, term.a_chunks, c, term.half);
                products = fma(weight[0], lora_x(row, 2u * c), products);
                products = fma(weight[1], lora_x(row, 2u * c + 1u), products);
            }
        }
        var sum = vec2<f32>(added_up(products), added_up(squares));
# if parts < lanes
        sum = vec2<f32>(subgroupAdd(sum.x), subgroupAdd(sum.y));
        if (li % ${subgroup}u == 0u) { rank_sums[li / ${subgroup}u] = sum; }
        workgroupBarrier();
# else
        rank_sums[li] = sum;
        workgroupBarrier();
        for (var half = ${lanes // 2}u; half > 0u; half /= 2u) {
            if (lane < half) { rank_sums[li] += rank_sums[li + half]; }
            workgroupBarrier();
        }
# endif
        if (lane == 0u) {
            let first = li / ${lanes}u * ${parts}u;
            var all = rank_sums[first];
# if parts < lanes
            for (var part = 1u; part < ${parts}u; part++) { all += rank_sums[first + part]; }
# endif
            if (term.a == 0u) { all.x = lora_x(row, rank / 4u)[rank % 4u]; }
# if factored
            all.x *= 1.0 / sqrt(all.y / ${columns}.0 + ${norm.eps});
# endif
            keep(lora_middle(to, k, which) * 4u + rank, all.x);
        }
        workgroupBarrier();
    }
}
