// What adapters add to results of a row: factor * (scale * B(A x) + offset), one adapter after the other.
// Needs step.wgsl and the binding `lora: array<vec4<u32>>`: two records for each place and target, then weights in
// chunks of eight numbers; plugins/shimmy_plugins/backends/wgpu/lora.py writes it.

struct Term {
    // Where weights begin, 0: there are none.
    a: u32, b: u32, offset: u32,
    // Chunks of a row of A, and of B.
    a_chunks: u32, b_chunks: u32,
    half: bool,
    scale: f32,
}

// Where the row's entries begin, 0: it has none. An entry is the number of a place, 0: none, and a factor.
# set row_of_step = "step_output(row - step_first_output())" if late and not picked else "row"
fn lora_entries(row: u32) -> u32 { return step[8u + ${row_of_step} * 4u + 3u]; }
fn lora_number(entries: u32, k: u32) -> u32 { return step[entries + 2u * k]; }
fn lora_factor(entries: u32, k: u32) -> f32 { return bitcast<f32>(step[entries + 2u * k + 1u]); }

// What the adapter of that number has for a matrix.
fn lora_term(number: u32, which: u32) -> Term {
    let at = ((number - 1u) * ${lora.starts | length}u + which) * 2u;
    let first = lora[at];
    let second = lora[at + 1u];
    return Term(first.x, first.y, first.z, first.w, second.x, second.y != 0u, bitcast<f32>(second.z));
}
// A chunk of a weight's row, as it is stored and as numbers.
fn lora_load(begin: u32, row: u32, chunks: u32, chunk: u32, half: bool) -> array<vec4<u32>, 2> {
    let at = row * chunks + chunk;
    if (half) { return array(lora[begin + at], vec4<u32>()); }
    return array(lora[begin + 2u * at], lora[begin + 2u * at + 1u]);
}
fn lora_numbers(words: array<vec4<u32>, 2>, half: bool) -> array<vec4<f32>, 2> {
    if (half) {
        return array(
            vec4(unpack2x16float(words[0].x), unpack2x16float(words[0].y)),
            vec4(unpack2x16float(words[0].z), unpack2x16float(words[0].w)),
        );
    }
    return array(bitcast<vec4<f32>>(words[0]), bitcast<vec4<f32>>(words[1]));
}
fn lora_chunk(begin: u32, row: u32, chunks: u32, chunk: u32, half: bool) -> array<vec4<f32>, 2> {
    return lora_numbers(lora_load(begin, row, chunks, chunk, half), half);
}
fn lora_offset(term: Term, column: u32) -> f32 {
    if (term.offset == 0u) { return 0.0; }
    return bitcast<f32>(lora[term.offset + column / 4u][column % 4u]);
}
// Where `middle` has A x of the row's entry k for a target, in quads.
fn lora_middle(row: u32, k: u32, which: u32) -> u32 {
    return ((row * ${lora.most}u + k) * ${lora.starts | length}u + which) * ${lora.stride // 4}u;
}
// The matrix that has a row of those that lie one below the other, and which row of it that is.
fn lora_target(row: u32) -> vec2<u32> {
    var which = 0u;
    var own = row;
# for start in lora.starts[1:]
    if (row >= ${start}u) { which = ${loop.index}u; own = row - ${start}u; }
# endfor
    return vec2(which, own);
}
// What an adapter adds to a result, or its part number `lane`, of four sums.
fn lora_scaled(term: Term, sum: vec4<f32>, own: u32, lane: u32) -> f32 {
    let all = (sum.x + sum.y) + (sum.z + sum.w);
    if (lane != 0u) { return term.scale * all; }
    return fma(term.scale, all, lora_offset(term, own));
}
