// The context of a row at `position` in pieces of ${piece}, shared out in order: `each` to every workgroup but the last,
// all to one if they are at most ${alone}. It depends on the position alone, so that what is added to what does, too.
// Needs shimmy/common/context.wgsl.
struct Pieces { first: u32, end: u32, each: u32, workgroups: u32 }

fn pieces_of(position: u32) -> Pieces {
    let first = first_seen(position) / ${piece}u;
    let end = position / ${piece}u + 1u;
    let count = end - first;
    let each = select((count + ${splits - 1}u) / ${splits}u, count, count <= ${alone}u);
    return Pieces(first, end, each, (count + each - 1u) / each);
}
