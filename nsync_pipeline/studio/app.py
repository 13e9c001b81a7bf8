"""The studio: which page answers which address.

Whatever is decided is decided by the engine: the pages read the workspace, call the functions that
the commands call, and fill in templates.
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from nsync_pipeline.errors import UserError
from nsync_pipeline.studio import caption_pages, picture_pages, result_pages, training_pages
from nsync_pipeline.studio.guard import Guard
from nsync_pipeline.studio.jobs import Jobs
from nsync_pipeline.studio.page import FOLDER, Desk, done, mistake, not_there, shown
from nsync_pipeline.studio.picture_desk import PictureDesk
from nsync_pipeline.studio.tokens import TokenCounts
from nsync_pipeline.workspace import Workspace


def make_app(workspace: Workspace, token: str) -> Starlette:
    """The studio of ``workspace``, for who has ``token``."""
    desk = Desk(workspace, PictureDesk(workspace), Jobs(workspace), TokenCounts())
    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={UserError: mistake, OSError: mistake, 404: not_there},
    )
    app.state.desk = desk
    return app


def _routes() -> list[BaseRoute]:
    style = "/styles/{style}"
    return [
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
        Route("/", shown(picture_pages.styles_page)),
        Route("/job", shown(picture_pages.job_line)),
        Route("/adding", shown(picture_pages.adding)),
        Route("/styles", done(picture_pages.new_style), methods=["POST"]),
        Route("/upload/{batch}/{name:path}", picture_pages.upload, methods=["PUT"]),
        Route(f"{style}/pictures", shown(picture_pages.pictures_page)),
        Route(f"{style}/pictures", done(picture_pages.exclude), methods=["POST"]),
        Route(f"{style}/pictures/add", done(picture_pages.add_pictures), methods=["POST"]),
        Route(f"{style}/pictures/grid", shown(picture_pages.pictures_grid)),
        Route(f"{style}/thumbnail", shown(picture_pages.thumbnail)),
        Route(f"{style}/view", shown(picture_pages.view)),
        Route(f"{style}/captions", shown(caption_pages.captions_page)),
        Route(f"{style}/captions", done(caption_pages.save_captions), methods=["POST"]),
        Route(f"{style}/captions/outlook", done(caption_pages.outlook), methods=["POST"]),
        Route(f"{style}/captions/change", done(caption_pages.change_captions), methods=["POST"]),
        Route(f"{style}/captions/suggest", done(caption_pages.suggest), methods=["POST"]),
        Route(f"{style}/captions/words", done(caption_pages.style_words), methods=["POST"]),
        Route(f"{style}/captions/export", shown(caption_pages.export_sidecars)),
        Route(f"{style}/captions/import", done(caption_pages.import_sidecars), methods=["POST"]),
        Route(f"{style}/train", shown(training_pages.train_page)),
        Route(f"{style}/train", done(training_pages.start_training), methods=["POST"]),
        Route(f"{style}/settings", done(training_pages.save_settings), methods=["POST"]),
        Route(f"{style}/presets", shown(training_pages.presets)),
        Route("/stop", done(training_pages.stop), methods=["POST"]),
        Route(f"{style}/watch", shown(training_pages.watch_page)),
        Route(f"{style}/watch/live", shown(training_pages.watch_live)),
        Route(f"{style}/look", shown(training_pages.look)),
        Route(f"{style}/choose", done(training_pages.choose), methods=["POST"]),
        Route(f"{style}/compare", shown(result_pages.compare_page)),
        Route(f"{style}/compare", done(result_pages.draw), methods=["POST"]),
        Route(f"{style}/compare/drawn", shown(result_pages.drawn)),
        Route(f"{style}/drawn", shown(result_pages.drawn_file)),
        Route(f"{style}/report", shown(result_pages.report_page)),
        Route(f"{style}/blind", shown(result_pages.blind_choice_page)),
        Route(f"{style}/choices", done(result_pages.take_choices), methods=["POST"]),
        Route(f"{style}/home", shown(result_pages.take_home_page)),
        Route(f"{style}/home", done(result_pages.export), methods=["POST"]),
        Route(f"{style}/home/file", shown(result_pages.exported_file)),
    ]
