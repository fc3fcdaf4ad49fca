"""The same small site with several frameworks, unchanged: what they do at their edges is what differs.

Each has: ``/`` (text), ``/json`` (echoes JSON), ``/form`` (a form and a file), ``/cookies`` (sets two, shows those that
came), ``/go`` (redirects by url), ``/stream`` (blocks), ``/download`` (a file), ``/error`` (raises),
``/where`` (what it thinks its own address and its client are).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

FILE = os.path.abspath(__file__)


def flask_application() -> Any:
    import flask

    app = flask.Flask("shop")

    @app.get("/")
    def home() -> str:
        return "home é"

    @app.post("/json")
    def echo() -> Any:
        return flask.jsonify(got=flask.request.get_json())

    @app.post("/form")
    def form() -> Any:
        upload = flask.request.files["file"]
        return flask.jsonify(name=flask.request.form["name"], file=upload.filename, size=len(upload.read()))

    @app.get("/cookies")
    def cookies() -> Any:
        response = flask.jsonify(dict(flask.request.cookies))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2 ü", httponly=True)
        return response

    @app.get("/go")
    def go() -> Any:
        return flask.redirect(flask.url_for("home", _external=True))

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response((f"{number}\n" for number in range(1000)), mimetype="text/plain")

    @app.get("/download")
    def download() -> Any:
        return flask.send_file(FILE, conditional=True)

    @app.get("/error")
    def error() -> str:
        raise LookupError("on purpose")

    @app.get("/where")
    def where() -> Any:
        return flask.jsonify(url=flask.request.url, client=flask.request.remote_addr)

    return app


def django_application() -> Any:
    import django
    from django import http
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    def home(request: Any) -> Any:
        return http.HttpResponse("home é")

    def echo(request: Any) -> Any:
        return http.JsonResponse({"got": json.loads(request.body)})

    def form(request: Any) -> Any:
        upload = request.FILES["file"]
        return http.JsonResponse({"name": request.POST["name"], "file": upload.name, "size": len(upload.read())})

    def cookies(request: Any) -> Any:
        response = http.JsonResponse(dict(request.COOKIES))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2", httponly=True)
        return response

    def go(request: Any) -> Any:
        return http.HttpResponseRedirect(request.build_absolute_uri("/"))

    def stream(request: Any) -> Any:
        return http.StreamingHttpResponse((f"{number}\n".encode() for number in range(1000)), content_type="text/plain")

    def download(request: Any) -> Any:
        return http.FileResponse(open(FILE, "rb"))

    def error(request: Any) -> Any:
        raise LookupError("on purpose")

    def where(request: Any) -> Any:
        return http.JsonResponse({"url": request.build_absolute_uri(), "client": request.META["REMOTE_ADDR"]})

    views = [home, echo, form, cookies, go, stream, download, error, where]
    names = ["", "json", "form", "cookies", "go", "stream", "download", "error", "where"]
    urls = type(sys)("django_urls")
    urls.urlpatterns = [path(name, view) for name, view in zip(names, views, strict=True)]  # type: ignore[attr-defined]
    sys.modules["django_urls"] = urls
    settings.configure(
        ROOT_URLCONF="django_urls",
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="test",
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.http.ConditionalGetMiddleware"],
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
        DEFAULT_CHARSET="utf-8",
        LOGGING_CONFIG=None,
    )
    django.setup()
    return get_wsgi_application()


def falcon_application() -> Any:  # noqa: C901
    import falcon

    class Resource:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = "home é"

    class Echo:
        def on_post(self, req: Any, resp: Any) -> None:
            resp.media = {"got": req.get_media()}

    class Form:
        def on_post(self, req: Any, resp: Any) -> None:
            found: dict[str, Any] = {}
            for part in req.get_media():
                if part.name == "name":
                    found["name"] = part.text
                else:
                    found |= {"file": part.filename, "size": len(part.stream.read())}
            resp.media = found

    class Cookies:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.media = dict(req.cookies)
            resp.set_cookie("a", "1")
            resp.set_cookie("b", "2")

    class Go:
        def on_get(self, req: Any, resp: Any) -> None:
            raise falcon.HTTPFound(f"{req.prefix}/")

    class Stream:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.content_type = "text/plain"
            resp.stream = (f"{number}\n".encode() for number in range(1000))

    class Download:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.stream = open(FILE, "rb")  # noqa: SIM115 - falcon hands it to wsgi.file_wrapper
            resp.content_length = os.path.getsize(FILE)

    class Error:
        def on_get(self, req: Any, resp: Any) -> None:
            raise LookupError("on purpose")

    class Where:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.media = {"url": req.uri, "client": req.remote_addr}

    app = falcon.App()
    resources = [Resource(), Echo(), Form(), Cookies(), Go(), Stream(), Download(), Error(), Where()]
    names = ["/", "/json", "/form", "/cookies", "/go", "/stream", "/download", "/error", "/where"]
    for name, resource in zip(names, resources, strict=True):
        app.add_route(name, resource)
    return app


def pyramid_application() -> Any:  # noqa: C901
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPFound
    from pyramid.response import FileResponse, Response

    def home(request: Any) -> Any:
        return Response("home é")

    def echo(request: Any) -> Any:
        return Response(json_body={"got": request.json_body})

    def form(request: Any) -> Any:
        upload = request.POST["file"]
        return Response(
            json_body={"name": request.POST["name"], "file": upload.filename, "size": len(upload.file.read())}
        )

    def cookies(request: Any) -> Any:
        response = Response(json_body=dict(request.cookies))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    def go(request: Any) -> Any:
        return HTTPFound(location=request.application_url + "/")

    def stream(request: Any) -> Any:
        return Response(app_iter=(f"{number}\n".encode() for number in range(1000)), content_type="text/plain")

    def download(request: Any) -> Any:
        return FileResponse(FILE, request=request)

    def error(request: Any) -> Any:
        raise LookupError("on purpose")

    def where(request: Any) -> Any:
        return Response(json_body={"url": request.url, "client": request.remote_addr})

    with Configurator() as config:
        views = [home, echo, form, cookies, go, stream, download, error, where]
        names = ["/", "/json", "/form", "/cookies", "/go", "/stream", "/download", "/error", "/where"]
        for name, view in zip(names, views, strict=True):
            config.add_route(name, name)
            config.add_view(view, route_name=name)
        return config.make_wsgi_app()


def webob_application() -> Any:
    from webob import Request, Response, exc
    from webob.dec import wsgify
    from webob.static import FileApp

    @wsgify
    def application(request: Any) -> Any:
        match request.path_info:
            case "/":
                return Response("home é")
            case "/json":
                return Response(json_body={"got": request.json_body})
            case "/form":
                upload = request.POST["file"]
                size = len(upload.file.read())
                return Response(json_body={"name": request.POST["name"], "file": upload.filename, "size": size})
            case "/cookies":
                response = Response(json_body=dict(request.cookies))
                response.set_cookie("a", "1")
                response.set_cookie("b", "2")
                return response
            case "/go":
                return exc.HTTPFound(location="/")
            case "/stream":
                return Response(app_iter=(f"{number}\n".encode() for number in range(1000)), content_type="text/plain")
            case "/download":
                return FileApp(FILE)
            case "/where":
                return Response(json_body={"url": request.url, "client": request.remote_addr})
            case _:
                raise LookupError("on purpose")

    assert Request.blank("/").get_response(application).status_code == 200
    return application


def werkzeug_debugger() -> Any:
    from werkzeug.debug import DebuggedApplication

    app = flask_application()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    return DebuggedApplication(app, evalex=True, pin_security=False)


def proxy_fix() -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    app = flask_application()
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_port=1)
    return app
