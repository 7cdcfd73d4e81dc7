// y = weight * x for the few rows of a step that are generated; each weight is read once for ${shape.batch} of them.
//
// ${shape.lanes} neighbouring invocations share a row of the weight; each multiplies every ${shape.lanes}th chunk of it.
// What an invocation adds up, and then the sum of all of them, is in one order, however many rows x has.

# import layout.shader as weights
# set norm_at = layout.parts | length
# set bias_at = norm_at + (0 if norm is none or place == "buffer" else 1)
# set x_at = bias_at + (1 if bias else 0)
# set y_at = x_at + (2 if place == "buffer" and int8 else 1)
# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
# set gated = ending in ("swiglu", "geglu")
# set halves = 2 if gated else 1
## Weight rows of an invocation: for result e its row, or those of the gate and of what it lets through.
# set weight_rows = shape.each * halves
# set totals = weight_rows * shape.batch
# set quads = shape.chunk // 4
# set groups = 32 // layout.group if layout.group is defined else 1
# set parts = shape.lanes // (subgroup or shape.lanes)
## What adapters add meets the product of one row; for several, it is there before.
# set meet = lora and place == "workgroup"
${weights.bindings(layout, "w", 0)}
# if norm is not none and place == "workgroup"
@group(0) @binding(${norm_at}) var<storage, read> norm: array<${float}>;
# endif
# if bias
@group(0) @binding(${bias_at}) var<storage, read> bias: array<f32>;
# endif
# if place == "workgroup"
@group(0) @binding(${x_at}) var<storage, read> x: array<${float}>;
# elif int8
@group(0) @binding(${x_at}) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(${x_at + 1}) var<storage, read> scales: array<vec2<f32>>;
# else
@group(0) @binding(${x_at}) var<storage, read> columns: array<vec4<f32>>;
# endif
@group(0) @binding(${y_at}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${y_at + 1}) var<storage, read> step: array<u32>;
# if lora
@group(0) @binding(${y_at + 2}) var<storage, read> lora: array<vec4<u32>>;
# if meet
@group(0) @binding(${y_at + 3}) var<storage, read_write> published: array<atomic<u32>>;
@group(0) @binding(${y_at + 4}) var<storage, read_write> in_vain: array<atomic<u32>>;
# else
@group(0) @binding(${y_at + 3}) var<storage, read> middle: array<vec4<f32>>;
# endif
# endif
# set total_at = y_at + (5 if meet else 4 if lora else 2)
# if total and place == "workgroup"
@group(0) @binding(${total_at}) var<storage, read> base: array<vec4<f32>>;
@group(0) @binding(${total_at + 1}) var<storage, read> term_weight: array<vec4<f32>>;
@group(0) @binding(${total_at + 2}) var<storage, read_write> kept: array<vec4<f32>>;
# endif
# if slots
@group(0) @binding(${y_at + 2}) var<storage, ${"read_write" if choice else "read"}> chosen: array<f32>;
# if choice
@group(0) @binding(${y_at + 3}) var<storage, read> logits: array<f32>;
# include "shimmy/common/choose.wgsl"
# endif
# include "shimmy/common/experts.wgsl"
# endif

// Of each row's ${parts} subgroups: what they have added up.
var<workgroup> sums: array<f32, ${shape.owners * parts * totals}>;
${weights.functions(layout, "w", columns)}
# include "shimmy/vec/held.wgsl"
# include "shimmy/vec/rows.wgsl"
# include "shimmy/vec/int8.wgsl" if int8 else "shimmy/vec/f32.wgsl"
# include "shimmy/common/ending.wgsl"
# if lora
# include "shimmy/common/lora.wgsl"
# if meet
# include "shimmy/common/lora_ranks.wgsl"
# include "shimmy/common/lora_meet.wgsl"
# else
# include "shimmy/common/lora_add.wgsl"
# endif
// What adapters add to each total, in two parts.
var<workgroup> added: array<f32, ${shape.owners * totals * 2}>;
# endif

# if subgroup
// What the invocations of a subgroup have added up.
fn add_up(mine: f32, li: u32) -> f32 { return subgroupAdd(mine); }
# else
var<workgroup> tree: array<f32, ${workgroup}>;
// What the invocations of a row have added up; the first of them gets it.
fn add_up(mine: f32, li: u32) -> f32 {
    tree[li] = mine;
    workgroupBarrier();
    for (var half = ${shape.lanes // 2}u; half > 0u; half /= 2u) {
        if (li % ${shape.lanes}u < half) { tree[li] += tree[li + half]; }
        workgroupBarrier();
    }
    let sum = tree[li];
    workgroupBarrier();
    return sum;
}
# endif

// Total k of the rows that some invocations share.
fn sum_of_parts(owner: u32, k: u32) -> f32 {
    var sum = sums[owner * ${parts * totals}u + k];
    for (var part = 1u; part < ${parts}u; part++) { sum += sums[(owner * ${parts}u + part) * ${totals}u + k]; }
# if lora
    let both = (owner * ${totals}u + k) * 2u;
    sum += added[both] + added[both + 1u];
# endif
    return sum;
}

// The first result of some invocations, and the rows of the weight for theirs; where there are no more, the last ones.
fn top_of(turn: u32, at: vec3<u32>, owner: u32) -> u32 {
    return ((at.z * ${shape.grid_x}u + at.x) * ${shape.turns}u + turn) * ${shape.owners * shape.each}u + owner;
}
fn rows_of(top: u32, slot: u32) -> array<u32, ${weight_rows}> {
# if slots
    let first = expert_here(min(slot, count() - 1u)) * ${outputs}u;
# endif
    return array<u32, ${weight_rows}>(
# for e in range(shape.each)
# for h in range(halves)
        min(top + ${e * shape.owners}u, ${outputs - 1}u) + ${h * outputs * (slots.here | length if slots else 1)}u${" + first" if slots},
# endfor
# endfor
    );
}

# if lora
// The row of all of the weight for the totals of number r of an invocation.
fn row_of_total(top: u32, r: u32) -> u32 {
    return ${y.offset}u + min(top + r / ${halves}u * ${shape.owners}u, ${outputs - 1}u) + r % ${halves}u * ${outputs}u;
}
# endif

@compute @workgroup_size(${workgroup})
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) li: u32,
# if meet
    @builtin(num_workgroups) grid: vec3<u32>,
# endif
) {
# if meet
    let helpers = grid.x - ${shape.grid_x}u;
    let only_row = source(0u);
    if (id.x < helpers) {
# if norm is not none and (norm.centred or total)
        prepare(0u, li);
# endif
        if (id.z == 0u) { lora_share(only_row, id.x, li); }
        return;
    }
    let entries = lora_entries(only_row);
    let at = vec3<u32>(id.x - helpers, id.y, id.z);
    // The matrices whose rows are multiplied here.
    let lowest = lora_target(row_of_total(top_of(0u, at, 0u), 0u)).x;
    let highest = lora_target(row_of_total(top_of(${shape.turns - 1}u, at, ${shape.owners - 1}u), ${weight_rows - 1}u)).x;
# else
    let at = id;
# endif
    let owner = li / ${shape.lanes}u;
    let lane = li % ${shape.lanes}u;
# if choice
    let row_of_slots = min(at.y, count() - 1u) / ${slots.used}u;
    choose(row_of_slots * ${choice.logits.stride}u + ${choice.logits.offset}u, li);
# endif
    let first_chunk = min(lane, ${shape.chunks - 1}u);
    var held = load(rows_of(top_of(0u, at, owner), at.y), first_chunk);
    let first = at.y * ${shape.batch}u;
    if (first >= count()) { return; }
# if slots and not slots.whole
    if (!is_here(first)) { return; }
# endif
# if meet
    let number = lora_next(entries, 0u);
# endif
# if place == "workgroup"
    prepare(first, li);
# if total
    if (at.x == 0u && at.z == 0u) { keep_total(first, li); }
# elif choice
    if (at.x == 0u && at.z == 0u && at.y % ${slots.used}u == 0u) { keep_choice(row_of_slots * ${2 * slots.used}u, li); }
# endif
# if meet
    let first_term = lora_first(number, lora_target(row_of_total(top_of(0u, at, owner), lane / 2u)).x);
# endif
# if shape.pieces == 1
    stage(first, 0u, li);
    workgroupBarrier();
# endif
# endif
    for (var turn = 0u; turn < ${shape.turns}u; turn++) {
        let top = top_of(turn, at, owner);
        let rows = rows_of(top, at.y);
        // Zeros are said: a variable that a loop does not set keeps its value from one turn to the next (naga 29).
        var totals = array<Total, ${totals}>();
# if meet
        // Two invocations for each total: what they read is on its way while all multiply.
        let column = row_of_total(top, lane / 2u);
        var early = vec4<u32>();
        if (lane < ${2 * totals}u) {
            let place = lora_target(column);
            var term = first_term;
            if (turn > 0u) { term = lora_first(number, place.x); }
            early = lora_early(number, term, place.y, lane % 2u);
        }
# elif lora
        // Two invocations for each total: what they read is on its way while others multiply.
        for (var i = lane; i < ${2 * totals}u; i += ${shape.lanes}u) {
            let row = row_of_total(top, i / ${2 * shape.batch}u);
            let source = min(first + i / 2u % ${shape.batch}u, count() - 1u);
            added[owner * ${2 * totals}u + i] = lora_added(${"source" if not late else "step_output(source)" if picked else "step_first_output() + source"}, row, i % 2u, 2u);
        }
# endif
        var chunk = lane;
# if shape.pieces > 1
        for (var start = 0u; start < ${shape.chunks}u; start += ${shape.piece}u) {
        workgroupBarrier();
        stage(first, start, li);
        workgroupBarrier();
# else
        let start = 0u;
# endif
        while (chunk < min(start + ${shape.piece}u, ${shape.chunks}u)) {
            multiply(&totals, held, chunk, first, chunk - start);
            chunk += ${shape.lanes}u;
            if (chunk < ${shape.chunks}u) { held = load(rows, chunk); }
        }
# if shape.pieces > 1
        }
# endif
        if (turn + 1u < ${shape.turns}u) { held = load(rows_of(top_of(turn + 1u, at, owner), at.y), first_chunk); }
# for k in range(totals)
        let sum${k} = add_up(value(totals[${k}]), li);
# endfor
        if (li % ${shape.lanes // parts}u == 0u) {
# for k in range(totals)
            sums[li / ${shape.lanes // parts}u * ${totals}u + ${k}u] = sum${k};
# endfor
        }
# if meet
        if (turn == 0u) {
            lora_look(entries, lowest, highest, li);
            workgroupBarrier();
        }
        if (lane < ${2 * totals}u) {
            added[owner * ${2 * totals}u + lane] = lora_met(early, entries, column, lane % 2u);
        }
# endif
        workgroupBarrier();
        for (var k = lane; k < ${shape.each * shape.batch}u; k += ${shape.lanes}u) {
            let e = k / ${shape.batch}u;
            let b = k % ${shape.batch}u;
            let row = top + e * ${shape.owners}u;
            if (row < ${outputs}u && first + b < count()) {
                let i = (${"step_first_output() + " if late}first + b) * ${y.stride}u + ${y.offset}u + row;
# if gated
                let gate = sum_of_parts(owner, e * ${2 * shape.batch}u + b)${" + bias[%du + row]" % y.offset if bias};
                let up = sum_of_parts(owner, e * ${2 * shape.batch}u + ${shape.batch}u + b)${" + bias[%du + row]" % (y.offset + outputs) if bias};
                y[i] = gated(gate, up);
# else
                let product = sum_of_parts(owner, k)${" + bias[%du + row]" % y.offset if bias};
                y[i] = ${{"store": "product", "add": "y[i] + product", "gelu": "gelu(product)"}[ending]};
# endif
            }
        }
        workgroupBarrier();
    }
}
