"""Reading and writing records, as the documentation shows it."""

from __future__ import annotations

from ensue import Controller, DispatchResult, Interaction, Ref, Store, match, total
from tests.typing.declaring import Comment, Like, Post, Site, Tag, User


class AddComment(Interaction):
    post: Ref[Post]
    text: str


async def read(store: Store, user: User) -> None:
    posts = await store.find(
        Post,
        (Post.author.name == "bob") & (Post.comment_count > 0),
        fields=[
            Post.title,
            Post.author.fields(User.name),
            Post.comments.fields(Comment.text, order_by=[Comment.at.desc()], limit=3),
        ],
        order_by=[Post.id.desc()],
        limit=20,
    )
    listed: list[Post] = posts
    post: Post = await store.get(Post, 42)
    one: Post | None = await store.find_one(Post, Post.title == "x")
    n: int = await store.count(Post, Post.author == user)
    site: Site = await store.globals(Site)
    rows = await store.find("UserChannel", match("source.id", "=", user.id), fields=["id", ["target", ["id"]]])
    tagged = await store.find(Post.tags.relation)
    likes = await store.find(Like, Like.user == user)
    by_author: list[tuple[str, int]] = await store.select(Post.author.name, total(Post.comment_count)).group_by(
        Post.author.name
    )
    print(listed, post, one, n, site.total_posts, rows, tagged, likes, by_author)
    for item in posts:
        print(item.title.upper(), item.author.name, [comment.text for comment in item.comments])
        print(item.titel)  # type error
    await store.find(Post, Post.comment_count)  # type error: no condition
    wrong: User = await store.get(Post, 42)  # type error
    print(wrong)


async def write(store: Store, tag: Tag) -> None:
    post: Post = await store.create(Post(title="x", author=User.ref(7)))
    posts = await store.create_many([Post(title="y", author=User.ref(7)), post])
    await store.create("TaskEvent", task_id=1, status="done")
    await store.update(Comment, 42, score=3, post=Post.ref(9))
    await store.update(Comment, 42, score=Comment.score + 1)
    await store.delete(Comment, 42)
    changed: int = await store.update_many(Comment, Comment.post.id == 9, approved=True)
    gone: int = await store.delete_many(Comment, Comment.flagged)
    await store.link(Post.tags, post, tag)
    await store.unlink(Post.tags, post, tag)
    async with store.transaction():
        await store.delete(Post, posts[0].id)
    await store.link(Post.tags, post, post)  # type error: a post is no tag
    print(changed, gone)


async def dispatch(controller: Controller, post: Post, user: User) -> None:
    result: DispatchResult[AddComment] = await controller.dispatch(AddComment(post=post, text="hi"), user=user)
    again = await controller.dispatch(AddComment(post=post, text="hi"), user=7, idempotency_key="k")
    many = await controller.dispatch_many([AddComment(post=post, text="hi")], user=user)
    print(result.event.text, again.replayed, [item.changes for item in many])
    print(result.event.txt)  # type error
